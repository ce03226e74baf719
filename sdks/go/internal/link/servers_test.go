package link

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
)

func TestServersAreTriedInTurn(t *testing.T) {
	servers := NewServers([]string{"a:1", "b:1", "c:1", "b:1"})
	var tried []string
	for range 4 {
		current := servers.Current()
		tried = append(tried, current)
		if delay := servers.Left(current, ""); delay < codeq.FollowMin || delay > codeq.FollowMax {
			t.Errorf("the delay is %s", delay)
		}
	}
	if strings.Join(tried, " ") != "a:1 b:1 c:1 a:1" {
		t.Errorf("tried %v", tried)
	}
}

func TestNamedLeaderIsFollowedAtOnceButNotTwice(t *testing.T) {
	servers := NewServers([]string{"a:1", "b:1"})
	if delay := servers.Left("a:1", "leader:1"); delay != 0 || servers.Current() != "leader:1" {
		t.Errorf("after %s the server is %s", delay, servers.Current())
	}
	if delay := servers.Left("leader:1", "leader:1"); delay == 0 || servers.Current() == "leader:1" {
		t.Errorf("a server that names itself is used again after %s", delay)
	}
	servers.Left(servers.Current(), "leader:1")
	if servers.Reached(); servers.Left(servers.Current(), "a:1") != 0 {
		t.Error("after a success, a named leader is not followed at once")
	}
}

func TestServerThatAnotherCallHasLeftIsNotLeftAgain(t *testing.T) {
	servers := NewServers([]string{"a:1", "b:1"})
	servers.Left("a:1", "")
	if delay := servers.Left("a:1", ""); delay != 0 || servers.Current() != "b:1" {
		t.Errorf("after %s the server is %s", delay, servers.Current())
	}
}

func TestLearnedMembersReplaceEarlierOnes(t *testing.T) {
	servers := NewServers([]string{"a:1"})
	servers.Learn([]string{"b:1", "", "c:1"})
	servers.Learn([]string{"d:1"})
	if known := servers.Known(); !slices.Equal(known, []string{"a:1", "d:1"}) || !servers.AreMany() {
		t.Errorf("known are %v", known)
	}
}

func TestRefreshIsDueOncePerInterval(t *testing.T) {
	servers, now := NewServers([]string{"a:1"}), time.Now()
	if !servers.IsRefreshDue(now) || servers.IsRefreshDue(now.Add(59*time.Second)) || !servers.IsRefreshDue(now.Add(60*time.Second)) {
		t.Error("the refresh is due at other times")
	}
}

func TestBackoffIsRandomBelowABoundThatGrows(t *testing.T) {
	for attempt, bound := range map[int]time.Duration{1: 200 * time.Millisecond, 3: 800 * time.Millisecond, 1000: 10 * time.Second} {
		for range 100 {
			if delay := backoff(attempt); delay < 0 || delay > bound {
				t.Fatalf("attempt %d waits %s", attempt, delay)
			}
		}
	}
}

func TestLogNamesEachReasonOnce(t *testing.T) {
	var text bytes.Buffer
	endpoint := &Endpoint{Servers: NewServers([]string{"a:1"}), Logger: slog.New(slog.NewTextHandler(&text, nil))}
	reconnects := NewReconnects("worker", endpoint)
	for _, message := range []string{"one", "one", "two", "two"} {
		reconnects.Tell(Unavailable(message), "a:1", time.Second)
	}
	reconnects.Opened("a:1")
	reconnects.Opened("a:1")
	if lines := strings.Count(text.String(), "\n"); lines != 3 {
		t.Errorf("there are %d lines:\n%s", lines, text.String())
	}
}

func TestAddresses(t *testing.T) {
	t.Setenv(codeq.EnvProducerAddr, "env-a:1, env-b:2")
	for given, want := range map[string]string{
		"": "env-a:1 env-b:2", "a:1,b:2": "a:1 b:2", "[::1]:9092": "[::1]:9092", "unix:/tmp/x.sock": "unix:/tmp/x.sock",
	} {
		var addresses []string
		if given != "" {
			addresses = []string{given}
		}
		if got, err := addressesOf(addresses, false); err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q gives %v, %v", given, got, err)
		}
	}
	if got, err := addressesOf(nil, true); err != nil || got[0] != "localhost:9091" {
		t.Errorf("a worker's default is %v, %v", got, err)
	}
	for _, malformed := range []string{"host", "host:", ":1", "host:0", "host:65536", "http://host:1", "unix:", "::1:1", ","} {
		if _, err := addressesOf([]string{malformed}, false); codeq.ReasonOf(err) != codeq.ErrInvalidArgument {
			t.Errorf("%q gives %v", malformed, err)
		}
	}
}
