// A custom runtime in Go's standard library: asks for an event, calls the handler with it, posts what that returns.
//
// What is wrong with the connection or with the protocol ends the process with status 1 and a line on standard error:
// Lambda then starts a new one.
package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Handler answers one event. The answer is a []byte, or an io.Reader: that one is streamed, piece by piece as it can be
// read. A reader that is an io.Closer is closed; one with a method ContentType() string says what it is.
//
// An error becomes a function error. It may have a method ErrorType() string; without one its type is Function.Error.
// A panic is a function error, too, and ends the process.
type Handler func(ctx context.Context, event []byte) (any, error)

// Invocation is what the Runtime API says of an invocation, besides the deadline: that is the context's.
type Invocation struct {
	RequestID, FunctionARN, TraceID, ClientContext, CognitoIdentity, TenantID string

	id string // this attempt's own: posts carry it, so that a late answer is not taken for another attempt's
}

type invocationKey struct{}

// InvocationOf returns the invocation that a handler's context belongs to.
func InvocationOf(ctx context.Context) Invocation {
	invocation, _ := ctx.Value(invocationKey{}).(Invocation)
	return invocation
}

const (
	errorTypeField = "Lambda-Runtime-Function-Error-Type"
	errorBodyField = "Lambda-Runtime-Function-Error-Body"
)

var complain = log.New(os.Stderr, "runtime: ", 0)

func main() {
	address := os.Getenv("AWS_LAMBDA_RUNTIME_API")
	if address == "" {
		complain.Fatal("there is no AWS_LAMBDA_RUNTIME_API: this is a runtime, start it with sandbox invoke")
	}
	log.SetFlags(0) // the log has its own times
	api := newAPI(address)

	var handler Handler
	failed := guard(func() (err error) {
		handler, err = setUp()
		return err
	})
	if failed != nil {
		api.postError("init/error", Invocation{}, failed)
		complain.Fatal(failed)
	}
	for {
		api.serve(handler)
	}
}

// serve gets one event and sees it through.
func (api *api) serve(handler Handler) {
	event, invocation, deadline := api.next()
	if invocation.TraceID != "" {
		os.Setenv("_X_AMZN_TRACE_ID", invocation.TraceID)
	} else {
		os.Unsetenv("_X_AMZN_TRACE_ID")
	}
	ctx, cancel := context.WithDeadline(context.WithValue(context.Background(), invocationKey{}, invocation), deadline)
	defer cancel() // after the answer: a stream is still being made when the handler has returned

	var body []byte
	var source io.Reader
	failed := guard(func() error {
		answer, err := handler(ctx, event)
		switch answer := answer.(type) {
		case nil:
		case []byte:
			body = answer
		case io.Reader:
			source = answer
		default:
			if err == nil {
				err = fmt.Errorf("the handler returned %T, not []byte or io.Reader", answer)
			}
		}
		return err
	})
	path := "invocation/" + invocation.RequestID
	switch {
	case failed != nil:
		api.postError(path+"/error", invocation, failed)
	case source != nil:
		failed = api.postStream(path+"/response", invocation, source)
	default:
		api.post(path+"/response", invocation, bytes.NewReader(body), nil)
	}
	if failed != nil && failed.panicked {
		complain.Fatal(failed)
	}
}

// ── failures ──

// failure is an error as the Runtime API wants it.
type failure struct {
	Type    string   `json:"errorType"`
	Message string   `json:"errorMessage"`
	Stack   []string `json:"stackTrace,omitempty"`

	panicked bool
}

func (f *failure) String() string {
	return strings.Join(append([]string{f.Type + ": " + f.Message}, f.Stack...), "\n    ")
}

func (f *failure) document() []byte {
	document, _ := json.Marshal(f) // strings can always be written
	return document
}

func failureOf(err error) *failure {
	failed := &failure{Type: "Function.Error", Message: err.Error()}
	var typed interface{ ErrorType() string }
	if errors.As(err, &typed) {
		failed.Type = strings.Map(printable, typed.ErrorType())
	}
	return failed
}

// printable keeps what may stand in a header field; net/http refuses the rest.
func printable(r rune) rune {
	if r > ' ' && r < 0x7f {
		return r
	}
	return '?'
}

// guard calls f. Its error or its panic comes back as a failure.
func guard(f func() error) (failed *failure) {
	defer func() {
		if cause := recover(); cause != nil {
			failed = &failure{Type: "Function.Panic", Message: fmt.Sprint(cause), Stack: stack(), panicked: true}
		}
	}()
	if err := f(); err != nil {
		return failureOf(err)
	}
	return nil
}

// stack names the callers of a function that has panicked, the innermost first.
func stack() []string {
	callers := make([]uintptr, 64)
	frames := runtime.CallersFrames(callers[:runtime.Callers(3, callers)]) // not this one, nor the deferred one in guard
	var lines []string
	for {
		frame, more := frames.Next()
		if frame.Function != "" && !strings.HasPrefix(frame.Function, "runtime.") {
			lines = append(lines, fmt.Sprintf("%s (%s:%d)", frame.Function, filepath.Base(frame.File), frame.Line))
		}
		if !more {
			return lines
		}
	}
}

// ── the Runtime API ──

type api struct {
	base   string
	client *http.Client
}

// newAPI makes a client that waits for an event as long as it takes, asks no proxy (Transport.Proxy is nil), and takes
// bodies as they are.
func newAPI(address string) *api {
	return &api{
		base:   "http://" + address + "/2018-06-01/runtime/",
		client: &http.Client{Transport: &http.Transport{DisableCompression: true}},
	}
}

// next waits for an event.
func (api *api) next() ([]byte, Invocation, time.Time) {
	reply, err := api.client.Get(api.base + "invocation/next")
	if err != nil {
		complain.Fatalf("cannot ask for an event: %v", err)
	}
	defer reply.Body.Close()
	event, err := io.ReadAll(reply.Body)
	if err != nil {
		complain.Fatalf("cannot read an event: %v", err)
	}
	if reply.StatusCode != http.StatusOK {
		complain.Fatalf("asked for an event and got %s: %s", reply.Status, event)
	}
	field := reply.Header.Get
	milliseconds, err := strconv.ParseInt(field("Lambda-Runtime-Deadline-Ms"), 10, 64)
	if err != nil || field("Lambda-Runtime-Aws-Request-Id") == "" {
		complain.Fatal("got an event without a request id or a deadline")
	}
	return event, Invocation{
		RequestID:       field("Lambda-Runtime-Aws-Request-Id"),
		FunctionARN:     field("Lambda-Runtime-Invoked-Function-Arn"),
		TraceID:         field("Lambda-Runtime-Trace-Id"),
		ClientContext:   field("Lambda-Runtime-Client-Context"),
		CognitoIdentity: field("Lambda-Runtime-Cognito-Identity"),
		TenantID:        field("Lambda-Runtime-Aws-Tenant-Id"),
		id:              field("Lambda-Runtime-Invocation-Id"),
	}, time.UnixMilli(milliseconds)
}

// post sends an answer; `more` may change the request first.
func (api *api) post(path string, invocation Invocation, body io.Reader, more func(*http.Request)) {
	request, err := http.NewRequest(http.MethodPost, api.base+path, body)
	if err != nil {
		complain.Fatalf("cannot post to %s: %v", path, err)
	}
	request.Header.Set("Content-Type", "application/json")
	if invocation.id != "" {
		request.Header.Set("Lambda-Runtime-Invocation-Id", invocation.id)
	}
	if more != nil {
		more(request)
	}
	reply, err := api.client.Do(request)
	if err != nil {
		complain.Fatalf("cannot post to %s: %v", path, err)
	}
	defer reply.Body.Close()
	text, _ := io.ReadAll(reply.Body) // to its end, so that the connection can be used again
	switch reply.StatusCode {
	case http.StatusAccepted:
	case http.StatusRequestEntityTooLarge:
		complain.Printf("the answer is too long: %s", text) // the caller has been told
	default:
		complain.Fatalf("posted to %s and got %s: %s", path, reply.Status, text)
	}
}

func (api *api) postError(path string, invocation Invocation, failed *failure) {
	api.post(path, invocation, bytes.NewReader(failed.document()), func(request *http.Request) {
		request.Header.Set(errorTypeField, failed.Type)
	})
}

// ── streaming ──

// postStream sends what can be read from source as it comes. Returns the failure that ended it early, if one did.
func (api *api) postStream(path string, invocation Invocation, source io.Reader) *failure {
	body := &streamBody{source: source, trailer: http.Header{}, closed: make(chan struct{})}
	body.trailer[errorTypeField], body.trailer[errorBodyField] = nil, nil // announced; without a failure they stay away
	api.post(path, invocation, body, func(request *http.Request) {
		request.Header.Set("Lambda-Runtime-Function-Response-Mode", "streaming")
		request.Header.Set("Content-Type", "application/octet-stream")
		if typed, ok := source.(interface{ ContentType() string }); ok {
			request.Header.Set("Content-Type", typed.ContentType())
		}
		request.Trailer = body.trailer
		request.Close = true // AWS asks runtimes to end the connection of a stream
	})
	<-body.closed // after a refusal net/http may still be reading, and the next event's handler must not meet that
	return body.failed.Load()
}

// streamBody is a request's body of unknown length, which net/http sends in chunks. A failure of its source becomes the
// trailers: the status line is long gone by then.
type streamBody struct {
	source  io.Reader
	trailer http.Header
	failed  atomic.Pointer[failure]
	once    sync.Once
	closed  chan struct{}
}

func (body *streamBody) Read(piece []byte) (count int, err error) {
	failed := guard(func() error { // net/http reads in a goroutine of its own: a panic there would end the process unheard
		count, err = body.source.Read(piece)
		if err == io.EOF {
			return nil
		}
		return err
	})
	if failed == nil {
		return count, err
	}
	body.failed.Store(failed)
	body.trailer.Set(errorTypeField, failed.Type)
	body.trailer.Set(errorBodyField, base64.StdEncoding.EncodeToString(failed.document()))
	return count, io.EOF
}

func (body *streamBody) Close() error {
	body.once.Do(func() {
		if closer, ok := body.source.(io.Closer); ok {
			closer.Close()
		}
		close(body.closed)
	})
	return nil
}
