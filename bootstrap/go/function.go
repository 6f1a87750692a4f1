package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"time"
)

// setUp is called once, in Lambda's Init: open here what every event needs. Its error is reported as an init error.
func setUp() (Handler, error) {
	return handle, nil
}

// handle wraps the event into an object; it fails when the event is the string "fail", and streams when it is "stream".
func handle(ctx context.Context, event []byte) (any, error) {
	log.Printf("an event of %d bytes", len(event))
	switch string(event) {
	case `"fail"`:
		return nil, errors.New("the event was \"fail\"")
	case `"stream"`:
		return count(ctx), nil
	}
	deadline, _ := ctx.Deadline()
	return json.Marshal(map[string]any{
		"event":       json.RawMessage(event),
		"requestId":   InvocationOf(ctx).RequestID,
		"remainingMs": time.Until(deadline).Milliseconds(),
	})
}

// count is an answer that comes in pieces: each Write goes to the caller at once.
func count(ctx context.Context) io.Reader {
	reader, writer := io.Pipe()
	go func() {
		for i := 1; i <= 3; i++ {
			fmt.Fprintf(writer, "%d of 3\n", i)
		}
		writer.CloseWithError(ctx.Err()) // nil is the end; an error here is an error in mid-stream
	}()
	return reader
}
