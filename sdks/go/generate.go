package codeq

//go:generate go run ./internal/reasongen reasons_gen.go
