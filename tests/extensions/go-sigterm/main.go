// A function that wants SIGTERM, on AWS's Go client: the client registers an internal extension for that. It echoes.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/aws/aws-lambda-go/lambda"
)

func main() {
	lambda.StartWithOptions(
		func(event json.RawMessage) (json.RawMessage, error) { return event, nil },
		lambda.WithEnableSIGTERM(func() {
			fmt.Println("told to end")
			os.Exit(0)
		}),
	)
}
