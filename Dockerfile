# The relay and the operator's command line: one static binary, nobody's user, no shell.
#
#   docker build -t surepost .
#   docker run -v ./surepost.yaml:/etc/surepost/surepost.yaml:ro surepost
#
# BUILDER is any image with Go 1.26 or later and a system's CA certificates.
ARG BUILDER=golang:1.26
FROM ${BUILDER} AS build
WORKDIR /src
COPY . .
WORKDIR /src/cmd/surepost
ENV CGO_ENABLED=0
RUN ["go", "build", "-trimpath", "-ldflags=-s -w", "-o", "/out/surepost", "."]

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/surepost /surepost
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/surepost"]
CMD ["relay", "--config", "/etc/surepost/surepost.yaml"]
