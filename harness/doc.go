// Package harness gives tests and example programs real PostgreSQL and RabbitMQ servers.
//
//	func TestOrderIsPublished(t *testing.T) {
//		pg := harness.Postgres(t)  // a database of this test's own
//		mq := harness.RabbitMQ(t)  // a virtual host of this test's own
//		pool, err := pgxpool.New(ctx, pg.URL())
//		conn, err := amqp.Dial(mq.URL())
//		billing := pg.NewDatabase(t) // a further database
//		mq.CloseConnections(t)       // cuts every client off
//	}
//
//	func TestNothingIsLostInACrash(t *testing.T) {
//		pg := harness.Postgres(t, harness.Private(), harness.Setting("max_connections", "20"))
//		mq := harness.RabbitMQ(t, harness.Private())
//		pg.Kill(t)    // SIGKILL; Stop shuts down in good order
//		pg.Start(t)   // same port, same data; Restart is Stop and Start
//		mq.Block(t)   // memory alarm: publishers are blocked until Unblock
//	}
//
// A program that is not a test asks in the same way and closes at its end:
//
//	pg, err := harness.StartPostgres(ctx)
//	defer pg.Close()
//	orders, err := pg.CreateDatabase(ctx, "orders")
//	mq, err := harness.StartRabbitMQ(ctx)
//	defer mq.Close()
//
// # Where the servers come from
//
// The first of these that works:
//
//  1. The address in SUREPOST_POSTGRES_URL and SUREPOST_AMQP_URL. The user must be allowed to create
//     databases or virtual hosts; RabbitMQ needs its management plugin, expected at the AMQP port +
//     10000 or at SUREPOST_RABBITMQ_MANAGEMENT_URL.
//  2. Docker, where an engine answers and has the image or can pull it: postgres:18 and
//     rabbitmq:4-management, or those in SUREPOST_POSTGRES_IMAGE and SUREPOST_RABBITMQ_IMAGE, which
//     must have the official images' entry points. An image that is named there is used or the test
//     fails; the name none skips this step.
//  3. The binaries of this machine.
//
// `go run ./harness/cmd/harness install` installs the binaries on Debian, and `… up` keeps one server
// of each running for many test runs.
//
// # What is promised
//
//   - A test that needs a server and can't have one fails, with what was tried and what to do. It is
//     never skipped.
//   - Tests don't see each other: each has its own database and virtual host, removed when it ends.
//     Calls are safe from parallel tests.
//   - Servers that are shared by the tests of a process start when the first test asks. Every process
//     has its own unless the URLs are set, on ports that nobody else uses.
//   - Nothing outlives the process, even when it panics, times out or gets SIGKILL: a small guard
//     process ends the servers and removes their data. In Docker the guard needs the docker command;
//     without it Ryuk, testcontainers-go's own cleaner, does this.
//   - What a private server confirmed survives Kill and Start: PostgreSQL and RabbitMQ sync to disk.
//
// # What is not
//
//   - Durability of a PostgreSQL that is not private: it runs with fsync off. Don't measure commits
//     on it.
//   - A quorum queue's first second: RabbitMQ, at least 3.10 to 4.3, saves the names of such queues
//     every half second only (Ra's names.dets). After a Kill within it the queue is there and empty.
//   - Protection from other users of the machine: servers listen on the loopback interface, and
//     RabbitMQ's password is guest.
//   - Windows.
package harness
