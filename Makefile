# Gatepost. "make" builds it, "make run" starts it, "make test" is the whole
# proof and what CI runs. "make help" lists the rest.

GO      ?= go
# Flags of the benchmark, for example BENCH='--runs 1 --workloads W1b'.
BENCH ?=
# Short forms for "make test"; for a longer look: make fuzz FUZZTIME=10m
FUZZTIME ?= 5s

# 0.1.0+8ee0286, with -dirty when the tree has changes. Outside of a git
# repository it is the number alone.
commit  := $(shell git describe --always --dirty --abbrev=7 --exclude '*' 2>/dev/null)
version := $(shell cat VERSION)$(if $(commit),+$(commit))

# A package's version must grow: the commit's time stands before its name. Outside
# of a git repository it is that of the file VERSION.
SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),$(shell date -r VERSION +%s))
stamp := $(shell TZ=UTC date -d @$(SOURCE_DATE_EPOCH) +%Y%m%d%H%M%S)
debversion := $(shell cat VERSION)+$(stamp)$(if $(commit),.$(subst -,.,$(commit)))

# Static and reproducible: the same commit gives the same bytes anywhere.
compile = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(version)'

# The packages with tests, but for the black-box suite, which has its own step.
units = $$($(GO) list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./... | grep -v '/e2e$$')

# The order is that of the time to the first failure.
steps := tools lint build unit cross foreign package fuzz appliance inside e2e

export GO FUZZTIME SOURCE_DATE_EPOCH

.PHONY: build run test $(filter-out build,$(steps)) dist deb inside soak bench bench-peers bench-packages clean help

build: ## build bin/gatepost for this machine
	$(compile) -o bin/gatepost .

run: build ## build and start it: no configuration needed, data in ./data
	bin/gatepost run

test: ## everything: the steps tools to e2e below, in order, until one fails
	@MAKE='$(MAKE)' scripts/steps.sh $(steps)

tools: ## install the Debian packages that the tests need and that are missing
	scripts/setup.sh

lint: ## gofmt, vet (for 32 bits too), staticcheck, systemd-analyze
	@bad=$$(gofmt -l .); if [ -n "$$bad" ]; then echo "not formatted as gofmt does:"; echo "$$bad"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -C e2e/faultfs ./...
	GOARCH=386 $(GO) vet ./...
	GOARCH=arm $(GO) vet ./...
	$(GO) tool staticcheck ./...
	scripts/units.sh

unit: ## unit tests with the race detector, then those that count allocations without it
	CGO_ENABLED=1 $(GO) test -race -skip Alloc $(units)
	$(GO) test -run Alloc $(units)

cross: ## build dist/gatepost-linux-* for all processors
	$(foreach t,$(targets),$(call target,$(t)) $(compile) -o dist/gatepost-linux-$(t) .$(newline))

dist: cross ## dist/ for a release: binaries, SHA256SUMS, SBOM; at most 20 MB each
	scripts/dist.sh

# armhf is the name of ARMv7 for Debian and of ARMv6 for Raspberry Pi OS; the
# binary for v6 uses what a v7 has where it finds one.
debs ?= amd64=amd64 arm64=arm64 armhf=armv6
deb: build $(if $(debs),cross) ## dist/gatepost_*.deb for Debian, Raspberry Pi OS and Armbian: amd64, arm64, armhf
	rm -f dist/*.deb
	$(foreach d,$(debs),scripts/deb.sh $(debversion) $(firstword $(subst =, ,$(d))) dist/gatepost-linux-$(lastword $(subst =, ,$(d))) dist/gatepost_$(debversion)_$(firstword $(subst =, ,$(d))).deb$(newline))
	cd dist && sha256sum gatepost_*.deb >SHA256SUMS-deb

package: cross ## build binaries and packages twice, look at what is in them, install, upgrade, remove and purge
	scripts/package.sh

inside: deb ## install, upgrade, remove and purge the package under a real systemd in a container; needs root
	scripts/inside.sh

foreign: cross ## unit tests without sockets, and a selftest of the binary, on other processors, emulated
	scripts/foreign.sh

fuzz: ## fuzz every target for FUZZTIME
	scripts/fuzz.sh

e2e: build ## the black-box suite against bin/gatepost; needs root, for file systems that it can break
	GATEPOST_BIN=$(CURDIR)/bin/gatepost GATEPOST_STRICT=1 $(GO) test -count=1 -timeout 25m -skip Appliance ./e2e

# Static, because the test runs inside of that Debian too.
appliance: build ## the service under a real systemd, in a container that is a Debian of its own; needs root, and a network once
	CGO_ENABLED=0 GATEPOST_BIN=$(CURDIR)/bin/gatepost GATEPOST_STRICT=1 $(GO) test -count=1 -timeout 10m -v -run Appliance ./e2e

soak: build ## the long form of e2e: hours
	GATEPOST_BIN=$(CURDIR)/bin/gatepost GATEPOST_STRICT=1 GATEPOST_SOAK=1 $(GO) test -count=1 -timeout 3h -v -skip Appliance ./e2e

bench: build ## Gatepost side by side with the floor of this machine: about 10 minutes
	$(GO) run ./bench $(BENCH)

bench-peers: build ## the same with other brokers, which it installs or builds: about 30 minutes
	command -v mosquitto /usr/sbin/mosquitto || apt-get install -y --no-install-recommends mosquitto
	$(GO) build -C bench/nats -o ../../bin/nats-server github.com/nats-io/nats-server/v2
	PATH=$$PATH:/usr/sbin $(GO) run ./bench --peers $(BENCH)

bench-packages: ## benchmarks of the packages; for a broker that runs see "gatepost bench --help"
	$(GO) test -run '^$$' -bench . -benchmem $(units)

clean: ## remove what was built
	rm -rf bin dist

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## /\1\t/p' Makefile | expand -t 16

# Name of a processor -> the variables that make the compiler build for it.
targets := amd64 arm64 armv6 armv7 riscv64 386
target = GOOS=linux GOARCH=$(if $(filter armv%,$(1)),arm GOARM=$(patsubst armv%,%,$(1)),$(1))
define newline


endef
