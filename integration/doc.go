// Package integration holds the tests that need real servers or a test library. The root module's own tests need neither.
package integration
