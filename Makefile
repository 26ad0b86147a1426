# make test          everything, with the race detector; installs and starts what it needs
# make test-images   what talks to servers, against those of Debian releases in Docker: by default PostgreSQL 18,
#                    RabbitMQ 4.3 and MariaDB 11.8
# make images        builds their images; installs and starts Docker
# make demo          the main job on real input: 20,000 orders through PostgreSQL and RabbitMQ, with crashes on the way
# make up            starts PostgreSQL and RabbitMQ and prints how to find them: eval "$(make -s up)"
# make down          ends them
# make bench         every figure against its reference, into bench/RESULTS.md; some 25 minutes on two quiet cores
# make fuzz          every fuzz target for FUZZTIME (2s)
# make vulnerabilities  known ones in what the code reaches, where their database can be reached
# make soak          simulation, the exhaustive model's large scopes, fuzzing and chaos with new seeds, for HOURS hours or until a promise
#                    is broken
# make lint          gofmt, go vet, staticcheck

MODULES := . harness telemetry integration cmd/surepost examples examples/orm deploy bench chaos
SERVED := harness integration cmd/surepost examples examples/orm
SUITES ?= forky
N ?= 20000
HOURS ?= 4
FUZZTIME ?= 2s

.PHONY: test test-images images demo up down bench fuzz vulnerabilities soak lint servers tidy

test: servers
	@failed=; for m in $(MODULES); do \
		echo "== $$m"; (cd $$m && go test -race -timeout 30m ./...) || failed="$$failed $$m"; \
	done; \
	echo "== more seeds, without the race detector"; \
	go test -count=1 -v ./simulation -seeds 10000 -for 30s || failed="$$failed simulation"; \
	go test -count=1 -v ./amqp -run TestConsumersKeepTheirPromises -for 30s || failed="$$failed consumers"; \
	if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

# A named image is used or the tests fail. The URLs would win over it. Other servers make no new data races, so there is no
# race detector here.
test-images: images
	@failed=; for s in $(SUITES); do for m in $(SERVED); do \
		echo "== $$m, servers of $$s"; \
		(cd $$m && env -u SUREPOST_POSTGRES_URL -u SUREPOST_AMQP_URL -u SUREPOST_MARIADB_URL \
			SUREPOST_POSTGRES_IMAGE=surepost-servers:$$s SUREPOST_RABBITMQ_IMAGE=surepost-servers:$$s \
			SUREPOST_MARIADB_IMAGE=surepost-servers:$$s SUREPOST_PGBOUNCER_IMAGE=surepost-servers:$$s \
			go test -count=1 -timeout 30m ./...) || failed="$$failed $$m@$$s"; \
	done; done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

images:
	@images/build $(SUITES)

# Without URLs each test process starts servers of its own, from Docker or from these binaries.
servers:
	@go run ./harness/cmd/harness install

demo:
	@eval "$$(go run ./harness/cmd/harness up postgres rabbitmq)"; go run ./examples/orders -n $(N); code=$$?; $(MAKE) -s down; exit $$code

up:
	@go run ./harness/cmd/harness up

down:
	@go run ./harness/cmd/harness down

# CASES=drain,wal runs only these; the others' results stay.
bench: servers
	@go run ./bench all -only "$(CASES)"

fuzz:
	@FUZZTIME=$(FUZZTIME) .ci/fuzz

vulnerabilities:
	@.ci/vulnerabilities $(MODULES)

# Each failing run prints its seed and how to run it again; chaos keeps its logs and says where they are.
soak: servers
	go test ./internal/model -count=1 -v -timeout 6h -model.soak
	@end=$$(($$(date +%s) + $(HOURS) * 3600)); while [ $$(date +%s) -lt $$end ]; do \
		seed=$$(date +%s)000; \
		go test ./simulation -count=1 -timeout 0 -run TestPromisesOfTheRelay -for 10m -from $$seed || exit 1; \
		go test ./amqp -count=1 -timeout 0 -run TestConsumersKeepTheirPromises -for 10m -from $$seed || exit 1; \
		FUZZTIME=10s .ci/fuzz || exit 1; \
		for n in 1 2 3; do go run ./chaos -duration 300s || exit 1; done; \
	done

lint:
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "not gofmt-ed: $$unformatted"; exit 1; fi
	@for m in $(MODULES); do (cd $$m && go vet ./...) || exit 1; done
	@for m in $(MODULES); do (cd $$m && go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...) || exit 1; done

tidy:
	@for m in $(MODULES); do (cd $$m && go mod tidy) || exit 1; done
