module github.com/surepost/surepost/cmd/surepost

go 1.26.0

require (
	github.com/surepost/surepost v0.0.0
	go.yaml.in/yaml/v4 v4.0.0
)

require (
	github.com/rabbitmq/amqp091-go v1.16.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)

replace (
	github.com/surepost/surepost => ../../
	github.com/surepost/surepost/harness => ../../harness
)
