// The handlers that the conformance suite asks a runtime for, on AWS's Go client. _HANDLER says which of them this process has.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

type order struct {
	Message             string
	Code                int
	Bytes, Chunks, Fail int
	MS                  time.Duration
	Lines, Errors       []string
}

var calls int

var handlers = map[string]any{
	"echo":  func(event json.RawMessage) (json.RawMessage, error) { return event, nil },
	"error": func(order order) error { return errors.New(order.Message) },
	"sleep": func(order order) (bool, error) {
		time.Sleep(order.MS * time.Millisecond)
		return true, nil
	},
	"exit":   func(order order) error { os.Exit(order.Code); return nil },
	"big":    func(order order) (string, error) { return strings.Repeat("x", order.Bytes), nil },
	"stream": func(order order) (io.Reader, error) { return stream(order), nil },
	"log": func(order order) (bool, error) {
		for _, line := range order.Lines {
			fmt.Println(line)
		}
		for _, line := range order.Errors {
			fmt.Fprintln(os.Stderr, line)
		}
		return true, nil
	},
	"context": told,
	"count":   func() (int, error) { calls++; return calls, nil },
}

func main() {
	name := os.Getenv("_HANDLER")
	if name == "init_exit" {
		os.Exit(7)
	}
	handler, known := handlers[name]
	if !known {
		log.Fatalf("there is no handler %s", name)
	}
	lambda.Start(handler)
}

func stream(order order) io.Reader {
	reader, writer := io.Pipe()
	go func() {
		chunk := bytes.Repeat([]byte("x"), order.Bytes)
		for number := 1; number <= order.Chunks; number++ {
			if _, err := writer.Write(chunk); err != nil {
				return // nobody reads any more
			}
			if number == order.Fail {
				writer.CloseWithError(errors.New("as the suite asked"))
				return
			}
			time.Sleep(order.MS * time.Millisecond)
		}
		writer.Close()
	}()
	return reader
}

func told(ctx context.Context) (any, error) {
	invocation, _ := lambdacontext.FromContext(ctx)
	deadline, _ := ctx.Deadline()
	document := map[string]any{
		"requestId":       invocation.AwsRequestID,
		"functionArn":     invocation.InvokedFunctionArn,
		"deadlineMs":      deadline.UnixMilli(),
		"traceId":         os.Getenv("_X_AMZN_TRACE_ID"),
		"clientContext":   nil,
		"identity":        nil,
		"tenantId":        invocation.TenantID,
		"functionName":    lambdacontext.FunctionName,
		"functionVersion": lambdacontext.FunctionVersion,
		"memoryMB":        lambdacontext.MemoryLimitInMB,
		"logGroup":        lambdacontext.LogGroupName,
		"logStream":       lambdacontext.LogStreamName,
	}
	if client := invocation.ClientContext; client.Custom != nil {
		document["clientContext"] = map[string]any{"custom": client.Custom, "env": client.Env}
	}
	if identity := invocation.Identity; identity.CognitoIdentityID != "" {
		document["identity"] = map[string]string{
			"cognitoIdentityId":     identity.CognitoIdentityID,
			"cognitoIdentityPoolId": identity.CognitoIdentityPoolID,
		}
	}
	return document, nil
}
