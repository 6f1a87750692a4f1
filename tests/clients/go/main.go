// The function that the tests run on AWS's Go client. The event says what to do; anything else comes back.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

type wish struct {
	Do     string
	Text   string
	Size   int
	Status int
	Fail   bool
}

type badLuck struct{ text string }

func (e *badLuck) Error() string { return e.text }

func handle(ctx context.Context, event json.RawMessage) (any, error) {
	var w wish
	_ = json.Unmarshal(event, &w) // an event that is no object is an echo
	switch w.Do {
	case "fail":
		return nil, &badLuck{w.Text}
	case "panic":
		panic(w.Text)
	case "sleep":
		log.Print("asleep")
		time.Sleep(time.Minute)
	case "exit":
		os.Exit(w.Status)
	case "large":
		return strings.Repeat("x", w.Size-2), nil
	case "pid":
		return os.Getpid(), nil
	case "child":
		child := exec.Command("sleep", "1000")
		err := child.Start()
		return []int{os.Getpid(), child.Process.Pid}, err
	case "log":
		log.Print(w.Text)
	case "context":
		told, _ := lambdacontext.FromContext(ctx)
		deadline, _ := ctx.Deadline()
		return map[string]any{
			"client":   []any{told.ClientContext.Client.AppTitle, told.ClientContext.Custom, told.ClientContext.Env},
			"identity": []string{told.Identity.CognitoIdentityID, told.Identity.CognitoIdentityPoolID},
			"tenant":   told.TenantID,
			"arn":      told.InvokedFunctionArn,
			"id":       told.AwsRequestID,
			"trace":    os.Getenv("_X_AMZN_TRACE_ID"),
			"left":     time.Until(deadline).Milliseconds(),
		}, nil
	case "stream":
		return &pieces{fail: w.Fail}, nil
	}
	return event, nil
}

// pieces is an answer that comes in two, the second one when there is a file "go"; or an error in its place.
type pieces struct {
	fail bool
	read int
}

func (p *pieces) ContentType() string { return "text/plain" }

func (p *pieces) Read(into []byte) (int, error) {
	p.read++
	if p.read == 1 {
		return copy(into, "first"), nil
	}
	for p.read == 2 {
		if _, err := os.Stat("go"); !errors.Is(err, os.ErrNotExist) {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	if p.fail {
		return 0, &badLuck{"in mid-stream"}
	}
	if p.read == 2 {
		return copy(into, "second"), nil
	}
	return 0, io.EOF
}

func main() {
	if os.Getenv("INIT") == "fail" {
		log.Fatal("no start")
	}
	lambda.Start(handle)
}
