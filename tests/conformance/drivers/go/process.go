package main

import (
	"os"
	"runtime"
	"strconv"
	"strings"
)

// processStats returns what the process uses, as far as the system tells.
func processStats() map[string]any {
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	stats := map[string]any{"heapBytes": memory.HeapAlloc, "goroutines": runtime.NumGoroutine()}
	if text, err := os.ReadFile("/proc/self/status"); err == nil {
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			number, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			switch name {
			case "VmRSS":
				stats["rssBytes"] = number * 1024
			case "Threads":
				stats["threads"] = number
			}
		}
	}
	if files, err := os.ReadDir("/proc/self/fd"); err == nil {
		stats["openFiles"] = len(files)
	}
	return stats
}
