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

.PHONY: build run cluster image test lint bench bench-scale bench-kafka compat soak sim mutants

COMPILE = CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)"

build:
	$(COMPILE) -o bin/streambus ./cmd/streambus

run: build
	./bin/streambus serve

# What docker-compose.yml runs, as processes of this machine, until Ctrl-C. The
# terminal sends that to the nodes too, and a second signal would not let them finish.
cluster: build
	@stopping=; nodes=; trap 'stopping=yes' INT; trap 'stopping=yes; kill $$nodes' TERM; \
	for n in 1 2 3; do \
		./bin/streambus serve --data-dir data-$$n --admin-listen 127.0.0.1:964$$n \
			--listeners PLAINTEXT://127.0.0.1:909$$n,CONTROLLER://127.0.0.1:919$$n --set controller.listener.names=CONTROLLER \
			--set node.id=$$n --set controller.quorum.voters=1@127.0.0.1:9191,2@127.0.0.1:9192,3@127.0.0.1:9193 \
			--set default.replication.factor=3 --set min.insync.replicas=2 & \
		nodes="$$nodes $$!"; \
	done; \
	while [ -z "$$stopping" ]; do \
		for pid in $$nodes; do kill -0 $$pid 2>/dev/null || [ -n "$$stopping" ] || { stopping=yes; echo "a node has ended: the others are stopped"; kill $$nodes 2>/dev/null; }; done; \
		sleep 0.5; \
	done; \
	failed=0; for pid in $$nodes; do wait $$pid || failed=1; done; exit $$failed

# For docker-compose.yml, or for one node: docker run -p 127.0.0.1:9092:9092 streambus
image:
	mkdir -p bin/image/data
	GOOS=linux $(COMPILE) -o bin/image/streambus ./cmd/streambus
	docker build -t streambus -f Dockerfile bin/image

test:
	go test $(RACE) -timeout 20m ./... && cd compat-tests && go test ./...
	@$(RACE_NOTE)

lint:
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }
	go vet ./... && cd compat-tests && go vet ./... && (cd clients/kafkago && go vet .) && cd clients/sarama && go vet .
	go run $(STATICCHECK) ./... && cd compat-tests && go run $(STATICCHECK) ./...

# Figures of one node, and of the metadata of three, beside the machine's own; read
# them as ratios of one run.
bench: build
	cd compat-tests && go run ./bench -broker ../bin/streambus

# A controller at 100,000 and 1,000,000 partitions, without processes, beside
# what the disk takes: a few minutes and 1 GB of memory.
bench-scale:
	go test -run '^$$' -bench '^BenchmarkScale$$' -benchtime 1x -timeout 30m ./raftmeta

# The same broker and Apache Kafka in turn, one node of each for about 10 minutes and
# three for 6; the first run fetches Kafka with Maven. BENCH has more flags, as in
# BENCH="-rounds 5 -rows '^produce'", or BENCH="-rows replicas" for the three nodes.
bench-kafka: build
	cd compat-tests && go run ./bench -kafka -broker ../bin/streambus -span 1s -rounds 2 $(BENCH)

# This broker beside Apache Kafka, with its clients and tools; then the tests of franz-go, and client libraries on
# the containers of docker-compose.yml, and in groups on local processes. Maven fetches the former once; what is missing
# beside Go is installed where apt-get and root are.
compat: build
	@missing=; \
	command -v mvn >/dev/null || missing="$$missing maven"; \
	command -v javac >/dev/null || missing="$$missing openjdk-17-jdk-headless"; \
	command -v kcat >/dev/null || missing="$$missing kcat"; \
	if [ -n "$$missing" ]; then \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "missing:$$missing; install them, or run this as root where apt-get is"; exit 1; }; \
		echo "installing$$missing"; \
		apt-get update -q && apt-get install -q -y $$missing || exit 1; \
	fi
	go test -count=1 -run '^TestQuickstart$$' ./cmd/streambus # which leaves out what kcat has to do where that is missing
	cd compat-tests && go run ./compat -broker ../bin/streambus && go run ./kgotests -broker ../bin/streambus && go run ./clients

# The long runs: STREAMBUS_KILLS kills of a broker that a producer writes to; the five
# operations of a metadata quorum, STREAMBUS_FAULTS_OPERATIONS of them, while controllers
# are killed and paused; STREAMBUS_BATCHES topics of 10,000 partitions; clients of a
# cluster whose nodes are, and whose disks fail them, for STREAMBUS_LOGCHECK_SPAN; groups whose members and brokers
# are, STREAMBUS_ROUNDS times; the simulator on SEEDS seeds; then every fuzz target there is, for STREAMBUS_FUZZ_TIME each. Making
# inputs small, which the fuzzer does by default, would take most of that.
soak: build
	STREAMBUS_KILLS=$${STREAMBUS_KILLS:-200} go test -count=1 -timeout 60m -run TestKill -v ./broker
	STREAMBUS_FAULTS_OPERATIONS=$${STREAMBUS_FAULTS_OPERATIONS:-100000} STREAMBUS_BATCHES=$${STREAMBUS_BATCHES:-50} \
		go test -count=1 -timeout 60m -run 'TestMetadataUnderFaults|TestBatchIsWhole' -v ./broker
	cd compat-tests && for faults in kill damage "cut,one way"; do \
		go run ./logcheck -broker ../bin/streambus -span $${STREAMBUS_LOGCHECK_SPAN:-10m} -faults "$$faults" || exit 1; \
	done
	cd compat-tests && go run ./logcheck -broker ../bin/streambus -span $${STREAMBUS_LOGCHECK_SPAN:-10m} # all that need no cut network
	cd compat-tests && go run ./clients -broker ../bin/streambus -only "a group churns" -rounds $${STREAMBUS_ROUNDS:-10}
	SEEDS=$${SEEDS:-20000} $(MAKE) sim
	@go test -list '^Fuzz' ./... | awk '/^Fuzz/ { t[n++] = $$1 } /^ok/ { for (i = 0; i < n; i++) print $$2, t[i]; n = 0 }' | \
	while read package target; do \
		go test -run '^$$' -fuzz "^$$target$$" -fuzzminimizetime 1x -fuzztime $${STREAMBUS_FUZZ_TIME:-60s} $$package || exit 1; \
	done

# The simulator on seeds that nobody has tried: SEEDS of them, from a random one on,
# a share on each core.
sim:
	go test -c -o bin/sim.test ./broker/sim
	@cores=$$(nproc); seeds=$$(($${SEEDS:-3000} / cores)); first=$${FIRST:-$$(date +%s)}; running=; \
	for i in $$(seq $$cores); do \
		(cd broker/sim && GOGC=400 STREAMBUS_SIM_SEEDS=$$seeds STREAMBUS_SIM_FIRST=$$((first + (i - 1) * seeds)) ../../bin/sim.test -test.timeout 0 -test.run 'TestSim$$' -test.v) & \
		running="$$running $$!"; \
	done; \
	failed=0; for shard in $$running; do wait $$shard || failed=1; done; exit $$failed

mutants:
	broker/sim/mutants/run $(MUTANTS)
