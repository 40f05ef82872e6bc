# Gatepost. "make" builds it, "make run" starts it, "make test" is the whole
# proof and what CI runs. "make help" lists the rest.

GO      ?= go
# Short forms for "make test"; for a longer look: make fuzz FUZZTIME=10m
FUZZTIME ?= 5s

# 0.1.0+8ee0286, with -dirty when the tree has changes. Outside of a git
# repository it is the number alone.
commit  := $(shell git describe --always --dirty --abbrev=7 --exclude '*' 2>/dev/null)
version := $(shell cat VERSION)$(if $(commit),+$(commit))

# Static and reproducible: the same commit gives the same bytes anywhere.
compile = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(version)'

# The packages with tests, but for the black-box suite, which has its own step.
units = $$($(GO) list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./... | grep -v '/e2e$$')

# The order is that of the time to the first failure.
steps := tools lint build unit cross foreign fuzz e2e

export GO FUZZTIME

.PHONY: build run test $(filter-out build,$(steps)) soak bench clean help

build: ## build bin/gatepost for this machine
	$(compile) -o bin/gatepost .

run: build ## build and start it: no configuration needed, data in ./data
	bin/gatepost run

test: ## everything: the steps tools to e2e below, in order, until one fails
	@MAKE='$(MAKE)' scripts/steps.sh $(steps)

tools: ## install the Debian packages that the tests need and that are missing
	scripts/setup.sh

lint: ## gofmt, vet (for 32 bits too), staticcheck
	@bad=$$(gofmt -l .); if [ -n "$$bad" ]; then echo "not formatted as gofmt does:"; echo "$$bad"; exit 1; fi
	$(GO) vet ./...
	GOARCH=386 $(GO) vet ./...
	GOARCH=arm $(GO) vet ./...
	$(GO) tool staticcheck ./...

unit: ## unit tests with the race detector, then those that count allocations without it
	CGO_ENABLED=1 $(GO) test -race -skip Alloc $(units)
	$(GO) test -run Alloc $(units)

cross: ## build dist/gatepost-linux-* for all processors
	$(foreach t,$(targets),$(call target,$(t)) $(compile) -o dist/gatepost-linux-$(t) .$(newline))

foreign: cross ## unit tests without sockets, and a selftest of the binary, on other processors, emulated
	scripts/foreign.sh

fuzz: ## fuzz every target for FUZZTIME
	scripts/fuzz.sh

e2e: build ## the black-box suite against bin/gatepost; needs root, for file systems that it can break
	GATEPOST_BIN=$(CURDIR)/bin/gatepost GATEPOST_STRICT=1 $(GO) test -count=1 -timeout 25m ./e2e

soak: build ## the long form of e2e: hours
	GATEPOST_BIN=$(CURDIR)/bin/gatepost GATEPOST_STRICT=1 GATEPOST_SOAK=1 $(GO) test -count=1 -timeout 3h -v ./e2e

bench: ## benchmarks of the packages; for a whole broker see "gatepost bench --help"
	$(GO) test -run '^$$' -bench . -benchmem $(units)

clean: ## remove what was built
	rm -rf bin dist

help: ## this list
	@sed -n 's/^\([a-z0-9]*\):[^#]*## /\1\t/p' Makefile | expand -t 10

# Name of a processor -> the variables that make the compiler build for it.
targets := amd64 arm64 armv6 armv7 riscv64 386
target = GOOS=linux GOARCH=$(if $(filter armv%,$(1)),arm GOARM=$(patsubst armv%,%,$(1)),$(1))
define newline


endef
