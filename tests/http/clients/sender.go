// Sends requests with Go's net/http: lines of method, URL and base64 of the body (-: none) on stdin; lines of status and
// base64 of the reply's body on stdout.
package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		parts := strings.Fields(lines.Text())
		var body io.Reader
		if parts[2] != "-" {
			content, err := base64.StdEncoding.DecodeString(parts[2])
			if err != nil {
				panic(err)
			}
			body = bytes.NewReader(content)
		}
		request, err := http.NewRequest(parts[0], parts[1], body)
		if err != nil {
			panic(err)
		}
		request.Header.Set("Authorization", "Bearer dev-token")
		request.Header.Set("Content-Type", "application/json")
		reply, err := http.DefaultClient.Do(request)
		if err != nil {
			panic(err)
		}
		content, err := io.ReadAll(reply.Body)
		if err != nil {
			panic(err)
		}
		reply.Body.Close()
		fmt.Printf("%d %s\n", reply.StatusCode, base64.StdEncoding.EncodeToString(content))
	}
}
