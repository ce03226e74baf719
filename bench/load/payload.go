package main

import (
	"bytes"
	"strconv"
	"time"
)

// Every payload carries the time its create was sent, in nanoseconds since the Unix epoch, so that its receiver can
// compute its age.
const (
	payloadStart = `{"jobId":"j-`
	payloadTime  = `","sentAt":`
)

var payloadTimeBytes = []byte(payloadTime)

// appendPayload appends the payload of the n-th task.
func appendPayload(buffer []byte, n int64, sent time.Time) []byte {
	buffer = append(buffer, payloadStart...)
	buffer = strconv.AppendInt(buffer, n, 10)
	buffer = append(buffer, payloadTime...)
	buffer = strconv.AppendInt(buffer, sent.UnixNano(), 10)
	return append(buffer, '}')
}

// ageOf returns how long ago the payload's create was sent, and whether this program made the payload.
func ageOf(payload []byte, now time.Time) (time.Duration, bool) {
	at := bytes.Index(payload, payloadTimeBytes)
	if at < 0 || payload[len(payload)-1] != '}' {
		return 0, false
	}
	sent, err := strconv.ParseInt(string(payload[at+len(payloadTime):len(payload)-1]), 10, 64)
	return time.Duration(now.UnixNano() - sent), err == nil
}
