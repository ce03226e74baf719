// Package webhooks verifies that a callback or a signal comes from the server.
//
// Two families of headers carry the same: X-CodeQ-Timestamp with X-CodeQ-Signature, and those of Standard Webhooks. One
// valid signature is enough. A request can arrive more than once: remember the id, and ignore an id seen before.
package webhooks

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Tolerance is the age of a request, or the advance of the sender's clock, beyond which it is rejected, so that nobody
// can replay it later.
const Tolerance = 5 * time.Minute

// ErrRejected says that a request is not signed, not with a known secret, or not just now; the errors that wrap it say
// which.
var ErrRejected = errors.New("codeq: webhook rejected")

var (
	errUnsigned = fmt.Errorf("%w: the request is not signed", ErrRejected)
	errTime     = fmt.Errorf("%w: the time of the request is more than %v seconds off", ErrRejected, Tolerance.Seconds())
	errSecret   = fmt.Errorf("%w: the request is not signed with a known secret", ErrRejected)
)

// Verify verifies a request by its body, as it was received, and its headers, with the secrets that may have signed it,
// such as the new and the old one. It returns the id of the request, which its repetitions share, or an error that wraps
// ErrRejected.
func Verify(body []byte, header http.Header, secrets ...string) (id string, err error) {
	return verifyAt(time.Now(), body, header, secrets)
}

func verifyAt(now time.Time, body []byte, header http.Header, secrets []string) (string, error) {
	id, rejected := header.Get("webhook-id"), errUnsigned
	if own := header.Get("X-CodeQ-Signature"); own != "" {
		seconds := header.Get("X-CodeQ-Timestamp")
		if rejected = errTime; isRecent(seconds, now) {
			rejected = errSecret
			for _, secret := range secrets {
				mine := hex.EncodeToString(sign([]byte(secret), seconds+".", body))
				if hmac.Equal([]byte(mine), []byte(own)) {
					return id, nil
				}
			}
		}
	}
	if signatures := strings.Fields(header.Get("webhook-signature")); len(signatures) > 0 {
		seconds := header.Get("webhook-timestamp")
		if !isRecent(seconds, now) {
			if rejected == errUnsigned {
				rejected = errTime
			}
			return "", rejected
		}
		rejected = errSecret
		for _, secret := range secrets {
			mine := "v1," + base64.StdEncoding.EncodeToString(sign(key(secret), id+"."+seconds+".", body))
			for _, each := range signatures {
				if hmac.Equal([]byte(mine), []byte(each)) {
					return id, nil
				}
			}
		}
	}
	return "", rejected
}

func sign(key []byte, head string, body []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(head))
	mac.Write(body)
	return mac.Sum(nil)
}

func isRecent(seconds string, now time.Time) bool {
	at, err := strconv.ParseUint(seconds, 10, 40)
	return err == nil && now.Sub(time.Unix(int64(at), 0)).Abs() <= Tolerance
}

// key returns the key of Standard Webhooks: the decoded rest of whsec_…, or the bytes of any other text.
func key(secret string) []byte {
	if rest, ok := strings.CutPrefix(secret, "whsec_"); ok {
		if decoded, err := base64.StdEncoding.DecodeString(rest); err == nil {
			return decoded
		}
	}
	return []byte(secret)
}
