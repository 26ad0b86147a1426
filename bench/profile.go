package main

import (
	"os"
	"runtime/pprof"
)

// startProfile profiles this process into file.name until the returned function is called. Without a file it does
// nothing.
func startProfile(file, name string) (stop func(), err error) {
	if file == "" {
		return func() {}, nil
	}
	f, err := os.Create(file + "." + name)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		f.Close()
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
	}, nil
}
