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
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Tolerance is the age of a request, or the advance of the sender's clock, beyond which it is rejected, so that nobody
// can replay it later.
const Tolerance = 5 * time.Minute

// ErrRejected says that a request is not signed with a known secret, or was not signed just now.
var ErrRejected = errors.New("codeq: the request is not signed with a known secret, or was not signed just now")

// Verify verifies a request by its body, as it was received, and its headers, with the secrets that may have signed it,
// such as the new and the old one. It returns the id of the request, which its repetitions share, or ErrRejected.
func Verify(body []byte, header http.Header, secrets ...string) (id string, err error) {
	return verifyAt(time.Now(), body, header, secrets)
}

func verifyAt(now time.Time, body []byte, header http.Header, secrets []string) (string, error) {
	id := header.Get("webhook-id")
	if own := header.Get("X-CodeQ-Signature"); own != "" {
		if seconds := header.Get("X-CodeQ-Timestamp"); isRecent(seconds, now) {
			for _, secret := range secrets {
				mine := hex.EncodeToString(sign([]byte(secret), seconds+".", body))
				if hmac.Equal([]byte(mine), []byte(own)) {
					return id, nil
				}
			}
		}
	}
	if seconds := header.Get("webhook-timestamp"); isRecent(seconds, now) {
		for _, secret := range secrets {
			mine := "v1," + base64.StdEncoding.EncodeToString(sign(key(secret), id+"."+seconds+".", body))
			for _, each := range strings.Fields(header.Get("webhook-signature")) {
				if hmac.Equal([]byte(mine), []byte(each)) {
					return id, nil
				}
			}
		}
	}
	return "", ErrRejected
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
