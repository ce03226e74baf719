package codeq

import "time"

// Defaults and limits of the SDK. They are the same in every language.
const (
	// DefaultConcurrency is the number of tasks that a worker runs at once.
	DefaultConcurrency = 16
	// DefaultLease is the length of leases.
	DefaultLease = 60 * time.Second
	// RenewalsPerLease says how often a lease is renewed over its length, so that two renewals may get lost.
	RenewalsPerLease = 3
	// DefaultDrainTimeout is the time that running tasks have to finish once a worker is stopped.
	DefaultDrainTimeout = 30 * time.Second
	// LeaveMax is the longest wait for the server to settle outcomes at the end of a worker or producer.
	LeaveMax = 5 * time.Second
	// DefaultWindowBytes is the size of the payloads that a worker holds at once.
	DefaultWindowBytes = 16 << 20
	// DefaultTimeout is the time of a call whose context has no deadline.
	DefaultTimeout = 30 * time.Second
	// UnsettledMax is the number of outcomes not yet settled by the server at which a worker requests no new tasks.
	UnsettledMax = 4096
	// MessageItemsMax is the number of outcomes, and of heartbeats, in one message of a worker.
	MessageItemsMax = 4096
	// MessageBytesMax is the size of the outcomes in one message of a worker; a single larger outcome still fits.
	MessageBytesMax = 2 << 20
	// FrameTasksMax is the number of tasks in one frame of a producer, unless the server allows fewer.
	FrameTasksMax = 4096
	// FrameBytesMax is the size of one frame of a producer, unless the server allows less.
	FrameBytesMax = 8 << 20
	// DefaultInFlightTasksMax is the number of creates waiting in a producer at which callers have to wait.
	DefaultInFlightTasksMax = 65536
	// BackoffMin is the upper bound of the first random delay between attempts to connect.
	BackoffMin = 200 * time.Millisecond
	// BackoffMax is the highest upper bound.
	BackoffMax = 10 * time.Second
	// BackoffFactor is the factor by which the bound grows with each failed attempt.
	BackoffFactor = 2
	// FollowMin is the shortest delay before another server is tried, unless the current one named it as the leader.
	FollowMin = 50 * time.Millisecond
	// FollowMax is the longest such delay.
	FollowMax = 500 * time.Millisecond
	// TopologyRefresh is the interval at which the members of the cluster are read again.
	TopologyRefresh = 60 * time.Second
	// TokenMargin is how long before its token expires a stream is left if there is no fresh token.
	TokenMargin = time.Second
	// StallMax is the time after which a call that may be repeated moves on to another server.
	StallMax = 5 * time.Second
	// KeepaliveInterval is the time without data after which a connection in use is checked.
	KeepaliveInterval = 15 * time.Second
	// KeepaliveTimeout is the time that the server has to answer the check.
	KeepaliveTimeout = 5 * time.Second
	// PayloadBytesMax is the size of a payload or result as JSON.
	PayloadBytesMax = 1 << 20
	// ProgressBytesMax is the size of a progress value as JSON.
	ProgressBytesMax = 64 << 10
)

// Defaults returns the defaults and limits by the names that all SDKs share. Times are in the unit of their name.
func Defaults() map[string]float64 {
	return map[string]float64{
		"concurrency":             DefaultConcurrency,
		"leaseSeconds":            DefaultLease.Seconds(),
		"renewalsPerLease":        RenewalsPerLease,
		"drainSeconds":            DefaultDrainTimeout.Seconds(),
		"leaveSecondsMax":         LeaveMax.Seconds(),
		"windowBytes":             DefaultWindowBytes,
		"timeoutSeconds":          DefaultTimeout.Seconds(),
		"unsettledMax":            UnsettledMax,
		"messageItemsMax":         MessageItemsMax,
		"messageBytesMax":         MessageBytesMax,
		"frameTasksMax":           FrameTasksMax,
		"frameBytesMax":           FrameBytesMax,
		"inFlightTasksMax":        DefaultInFlightTasksMax,
		"backoffMinMs":            float64(BackoffMin.Milliseconds()),
		"backoffMaxMs":            float64(BackoffMax.Milliseconds()),
		"backoffFactor":           BackoffFactor,
		"followMinMs":             float64(FollowMin.Milliseconds()),
		"followMaxMs":             float64(FollowMax.Milliseconds()),
		"refreshSeconds":          TopologyRefresh.Seconds(),
		"stallSeconds":            StallMax.Seconds(),
		"keepaliveSeconds":        KeepaliveInterval.Seconds(),
		"keepaliveTimeoutSeconds": KeepaliveTimeout.Seconds(),
	}
}
