package main

import "context"

var consume, wal benchmark

func runAll(ctx context.Context, args []string) error { return nil }
