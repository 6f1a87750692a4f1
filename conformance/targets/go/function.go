// The handlers that the conformance suite asks a runtime for, in Go. _HANDLER says which of them this process has.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

type order struct {
	Message             string
	Code                int
	Bytes, Chunks, Fail int
	MS                  time.Duration
	Lines, Errors       []string
}

func setUp() (Handler, error) {
	name := os.Getenv("_HANDLER")
	switch name {
	case "init_error":
		return nil, errors.New("as the suite asked")
	case "init_exit":
		os.Exit(7)
	case "echo":
		return func(_ context.Context, event []byte) (any, error) { return event, nil }, nil
	}
	handle, known := handlers[name]
	if !known {
		return nil, fmt.Errorf("there is no handler %s", name)
	}
	return func(ctx context.Context, event []byte) (any, error) {
		var order order
		if err := json.Unmarshal(event, &order); err != nil {
			return nil, err
		}
		return handle(ctx, order)
	}, nil
}

var calls int

var handlers = map[string]func(context.Context, order) (any, error){
	"error": func(_ context.Context, order order) (any, error) { return nil, errors.New(order.Message) },
	"sleep": func(_ context.Context, order order) (any, error) {
		time.Sleep(order.MS * time.Millisecond)
		return []byte("true"), nil
	},
	"exit": func(_ context.Context, order order) (any, error) {
		os.Exit(order.Code)
		return nil, nil
	},
	"big": func(_ context.Context, order order) (any, error) {
		return []byte(`"` + strings.Repeat("x", order.Bytes) + `"`), nil
	},
	"stream": func(_ context.Context, order order) (any, error) { return stream(order), nil },
	"log": func(_ context.Context, order order) (any, error) {
		for _, line := range order.Lines {
			fmt.Println(line)
		}
		for _, line := range order.Errors {
			fmt.Fprintln(os.Stderr, line)
		}
		return []byte("true"), nil
	},
	"context": func(ctx context.Context, _ order) (any, error) { return told(ctx) },
	"count": func(context.Context, order) (any, error) {
		calls++
		return []byte(strconv.Itoa(calls)), nil
	},
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

// told is what a handler can know of its invocation.
func told(ctx context.Context) ([]byte, error) {
	invocation := InvocationOf(ctx)
	deadline, _ := ctx.Deadline()
	return json.Marshal(map[string]any{
		"requestId":       invocation.RequestID,
		"functionArn":     invocation.FunctionARN,
		"deadlineMs":      deadline.UnixMilli(),
		"traceId":         os.Getenv("_X_AMZN_TRACE_ID"),
		"clientContext":   document(invocation.ClientContext),
		"identity":        document(invocation.CognitoIdentity),
		"tenantId":        invocation.TenantID,
		"functionName":    os.Getenv("AWS_LAMBDA_FUNCTION_NAME"),
		"functionVersion": os.Getenv("AWS_LAMBDA_FUNCTION_VERSION"),
		"memoryMB":        json.RawMessage(os.Getenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")),
		"logGroup":        os.Getenv("AWS_LAMBDA_LOG_GROUP_NAME"),
		"logStream":       os.Getenv("AWS_LAMBDA_LOG_STREAM_NAME"),
	})
}

func document(text string) json.RawMessage {
	if text == "" {
		return json.RawMessage("null")
	}
	return json.RawMessage(text)
}
