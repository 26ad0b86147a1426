// Package deploy is what Surepost is run and watched with: a Grafana dashboard, Prometheus alert rules. Its tests check
// them against the metrics that exist. It is a module of its own, because reading PromQL takes a library that nobody who uses
// the metrics should need.
package deploy
