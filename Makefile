# make build   bin/gatepost, static
# make run     build and start it with the built-in settings
# make test    everything that has to hold; installs what it needs
# make soak    the long form of the rigs, hours
# make bench   benchmarks of the packages
# make fuzz    every fuzz target for a minute

VERSION := $(shell cat VERSION)
COMMIT  := $(shell git rev-parse --short HEAD 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION)$(if $(COMMIT),+$(COMMIT))
UNIT    := $(shell go list ./... 2>/dev/null | grep -v /e2e)
export CGO_ENABLED := 0

.PHONY: build run test check unit fuzz-short cross emulated e2e soak bench fuzz setup clean

build:
	@go build -trimpath -ldflags '$(LDFLAGS)' -o bin/gatepost .

run: build
	@bin/gatepost run

test: setup check unit fuzz-short cross emulated e2e
	@echo "== all passed"

setup:
	@echo "== setup"
	@scripts/setup.sh

check:
	@echo "== gofmt, vet, staticcheck"
	@bad=$$(gofmt -l .); if [ -n "$$bad" ]; then echo "not formatted: $$bad"; exit 1; fi
	@go vet ./...
	@GOARCH=386 go vet ./...
	@GOARCH=arm go vet ./...
	@go tool staticcheck ./...

# Twice: with the race detector, and without it for the tests that count
# allocations.
unit:
	@echo "== unit tests"
	@go test $(UNIT)
	@echo "== unit tests, race detector"
	@CGO_ENABLED=1 go test -race $(UNIT)

fuzz-short:
	@echo "== fuzz targets, 4 seconds each"
	@scripts/fuzz.sh 4s

fuzz:
	@scripts/fuzz.sh 60s

cross:
	@echo "== builds for amd64 arm64 armv7 riscv64 386"
	@mkdir -p bin
	@GOARCH=amd64 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/gatepost-amd64 .
	@GOARCH=arm64 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/gatepost-arm64 .
	@GOARCH=arm GOARM=7 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/gatepost-armv7 .
	@GOARCH=riscv64 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/gatepost-riscv64 .
	@GOARCH=386 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/gatepost-386 .

# The rings and the arithmetic on the other word sizes and page tables, under
# emulation.
emulated:
	@echo "== ring, queue, ack, message, wukong on 386, arm, arm64, riscv64"
	@GOARCH=386 go test ./ring ./queue ./ack ./message ./wukong
	@GOARCH=arm GOARM=7 go test -exec qemu-arm-static ./ring ./queue ./ack ./message
	@GOARCH=arm64 go test -exec qemu-aarch64-static ./ring ./message
	@GOARCH=riscv64 go test -exec qemu-riscv64-static ./ring ./message

e2e: build
	@echo "== the binary and its clients"
	@GATEPOST_BIN=$(CURDIR)/bin/gatepost GATEPOST_STRICT=1 go test -count=1 -timeout 25m ./e2e

soak: setup build
	@GATEPOST_BIN=$(CURDIR)/bin/gatepost GATEPOST_SOAK=1 GATEPOST_STRICT=1 go test -count=1 -timeout 6h -v ./e2e

bench:
	@go test -run '^$$' -bench . -benchmem $(UNIT)

clean:
	@rm -rf bin
