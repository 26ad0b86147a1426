package main

import "context"

var flat, latency, consume, wal benchmark

func runAll(ctx context.Context, args []string) error { return nil }
