# Nothing has to be installed first but Go.

VERSION ?= $(shell git describe --always --dirty 2>/dev/null || echo dev)
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.7.0

# The race detector needs a C compiler.
ifneq ($(shell command -v gcc || command -v clang),)
RACE = -race
RACE_NOTE =
else
RACE =
RACE_NOTE = echo "no C compiler: the race detector was left out"
endif

.PHONY: build run test lint

build:
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/streambus ./cmd/streambus

run: build
	./bin/streambus serve

test:
	go test $(RACE) ./...
	@$(RACE_NOTE)

lint:
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
