# make help lists what there is.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
PLATFORMS := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64
BIN := tidemill
DIST := dist
LDFLAGS := -s -w -X main.release=$(VERSION)
PKG ?= ./...
FUZZTIME ?= 60s

.DEFAULT_GOAL := help

.PHONY: help build tensorflow test test-tensorflow race fuzz lint release clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-15s %s\n", $$1, $$2}'

build: ## ./tidemill for this machine
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/tidemill

# A file with the settings of cgo for TensorFlow. LIBTENSORFLOW=DIR names other libraries than those of the wheel.
TENSORFLOW = env="$$(go run ./internal/engine/tensorflow/setup)" && set -a && . "$$env" && set +a

tensorflow: ## ./tidemill with the engine tensorflow; needs cc, and Python with pip to fetch the library
	$(TENSORFLOW) && go build -trimpath -tags tensorflow -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/tidemill
	@{ "$(abspath $(BIN))" doctor --data-dir "$$(mktemp -d)" || true; } | grep 'engine tensorflow: version'

test-tensorflow: ## the tests of the engine tensorflow
	$(TENSORFLOW) && go vet -tags tensorflow ./internal/engine/tensorflow ./internal/e2e ./cmd/tidemill \
		&& go test -tags tensorflow ./internal/engine/tensorflow/... ./internal/model \
		&& go test -tags tensorflow -run TensorFlow ./internal/e2e

test: ## all tests, or those of PKG=./ps
	go test $(PKG)

race: ## all tests with the race detector, or those of PKG=./ps
	go test -race -short $(PKG)

fuzz: ## every fuzz target for FUZZTIME=60s, or those of PKG=./ps
	go run ./internal/fuzz -time $(FUZZTIME) $(PKG)

lint: ## gofmt, vet and the linters of the checks that every change has to pass
	bash .ci/run format vet lint

release: ## dist/tidemill-VERSION-OS-ARCH for linux and darwin, with checksums
	rm -rf $(DIST) && mkdir -p $(DIST)
	@for p in $(PLATFORMS); do \
		out=$(DIST)/tidemill-$(VERSION)-$${p%/*}-$${p#*/}; \
		echo "$$out"; \
		CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} go build -trimpath -ldflags '$(LDFLAGS)' -o "$$out" ./cmd/tidemill; \
	done
	@cd $(DIST) && if command -v sha256sum >/dev/null; then sha256sum tidemill-*; else shasum -a 256 tidemill-*; fi >SHA256SUMS

clean: ## remove what build and release made
	rm -rf $(BIN) $(DIST)
