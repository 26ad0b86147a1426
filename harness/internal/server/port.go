package server

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
)

// ManagementOffset is RabbitMQ's own convention (5672 and 15672). Keeping it lets the management API
// be found from an AMQP URL alone.
const ManagementOffset = 10000

// FreePort picks a TCP port of the loopback interface such that it and port+offset, for each offset,
// are free at this moment.
//
// The range lies, offset included, below the one from which systems take the ports of outgoing
// connections (Linux from 32768, others from 49152): a stopped server's port then stays free until
// the server is started again.
func FreePort(offsets ...int) (int, error) {
	const lowest, highest = 10240, 22000
	for range 200 {
		port := lowest + rand.IntN(highest-lowest)
		if allFree(port, offsets) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free TCP port on 127.0.0.1 between %d and %d: end what listens there", lowest, highest)
}

func allFree(port int, offsets []int) bool {
	for _, offset := range append([]int{0}, offsets...) {
		l, err := net.Listen("tcp", loopback(port+offset))
		if err != nil {
			return false
		}
		_ = l.Close()
	}
	return true
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// portTaken reports whether a start failed because another process has the port, in the words of
// PostgreSQL, Erlang and Docker.
func portTaken(err error) bool {
	text := strings.ToLower(err.Error())
	for _, words := range []string{"address already in use", "eaddrinuse", "port is already allocated"} {
		if strings.Contains(text, words) {
			return true
		}
	}
	return false
}
