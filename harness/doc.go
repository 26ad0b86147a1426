// Package harness gives tests and example programs real PostgreSQL, RabbitMQ and MariaDB servers, and
// the faults to test against.
//
//	func TestOrderIsPublished(t *testing.T) {
//		env := harness.Start(t, harness.Postgres(), harness.RabbitMQ()) // both start at the same time
//		pool, err := pgxpool.New(ctx, env.Postgres.URL())               // a database of this test's own
//		conn, err := amqp.Dial(env.RabbitMQ.URL())                      // a virtual host of this test's own
//		billing := env.Postgres.NewDatabase(t)                          // a further database
//		env.RabbitMQ.CloseConnections(t)                                // cuts every client off
//	}
//
// Tests share the servers of their process, so that only the first one waits for a start. A test that
// stops, kills, pauses or configures a server asks for a private one:
//
//	func TestNothingIsLostInACrash(t *testing.T) {
//		env := harness.Start(t,
//			harness.Postgres(harness.Private(), harness.Setting("max_connections", "20")),
//			harness.RabbitMQ(harness.Private()))
//		env.Postgres.Kill(t)    // SIGKILL; Stop shuts down in good order
//		env.Postgres.Start(t)   // same port, same data; Restart is Stop and Start
//		env.Postgres.Pause(t)   // SIGSTOP: connections stay, nothing answers; until Unpause
//		env.RabbitMQ.Block(t)   // memory alarm: publishers are blocked until Unblock
//	}
//
// The network between a client and any server, shared ones too, fails by a [Proxy]:
//
//	proxy := env.RabbitMQ.Proxy(t)
//	conn, err := amqp.Dial(proxy.URL())
//	proxy.Cut()                                        // a reset to both sides
//	proxy.CutClients()                                 // the server doesn't notice
//	proxy.Stall(harness.ToClient)                      // the server's answers wait until Resume
//	proxy.Latency(50*time.Millisecond, 10*time.Millisecond)
//	proxy.Bandwidth(64<<10)                            // bytes a second
//	proxy.HalfClose(harness.ToServer)                  // the server sees the end of the stream
//	proxy.Refuse()                                     // connection refused, until Accept
//
// A program that is not a test asks in the same way and closes at its end:
//
//	env, err := harness.StartEnv(ctx, harness.Postgres(), harness.RabbitMQ())
//	defer env.Close()
//	orders, err := env.Postgres.CreateDatabase(ctx, "orders")
//
// # Where the servers come from
//
// The first of these that works:
//
//  1. The address in SUREPOST_POSTGRES_URL, SUREPOST_AMQP_URL and SUREPOST_MARIADB_URL. The user must be
//     allowed to create databases or virtual hosts; RabbitMQ needs its management plugin, expected at
//     the AMQP port + 10000 or at SUREPOST_RABBITMQ_MANAGEMENT_URL. MySQL will do for MariaDB.
//  2. Docker, where an engine answers and has the image or can pull it: postgres:18,
//     rabbitmq:4-management and mariadb:11, or those in SUREPOST_POSTGRES_IMAGE,
//     SUREPOST_RABBITMQ_IMAGE and SUREPOST_MARIADB_IMAGE, or the test's own by [Image], which must have
//     the official images' entry points. An image that is named is used or the test fails; the name
//     none skips this step.
//  3. The binaries of this machine.
//
// `go run github.com/surepost/surepost/harness/cmd/harness install` installs the binaries on Debian, and
// `… up` keeps one server of each running for many test runs.
//
// # What is promised
//
//   - A test that needs a server and can't have one fails, with what was tried and what to do. It is
//     never skipped. The first such test of a process says it in full, the others name that one.
//   - Tests don't see each other: each has its own database and virtual host, removed when it ends.
//     Calls are safe from parallel tests.
//   - Servers that are shared by the tests of a process start when the first test asks. Every process
//     has its own unless the URLs are set, on ports that nobody else uses.
//   - A test that fails shows what its servers logged meanwhile, the last 50 lines of each.
//   - Nothing outlives the process, even when it panics, times out or gets SIGKILL: a small guard
//     process ends the servers and removes their data. In Docker the guard needs the docker command;
//     without it Ryuk, testcontainers-go's own cleaner, does this.
//   - What a private server confirmed survives Kill and Start: all three sync to disk.
//
// # What is not
//
//   - Durability of a PostgreSQL or MariaDB that is not private: it runs with fsync off, or nearly. Don't
//     measure commits on it.
//   - A quorum queue's first second: RabbitMQ, at least 3.10 to 4.3, saves the names of such queues
//     every half second only (Ra's names.dets). After a Kill within it the queue is there and empty.
//   - Protection from other users of the machine: servers listen on the loopback interface, and
//     RabbitMQ's password is guest.
//   - Pause without /proc, other than in Docker.
//   - Windows.
package harness
