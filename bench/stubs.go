package main

import ("context"; "errors")
var peers, write, flat, latency, consume, wal benchmark
func runAll(ctx context.Context, args []string) error { return nil }
func watermillWorker(ctx context.Context, j job, w *stopwatch) (int, error) { return 0, errors.New("x") }
func riverWorker(ctx context.Context, j job, w *stopwatch) (int, error) { return 0, errors.New("x") }
