package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/streambus/streambus/broker/config"
	"github.com/streambus/streambus/broker/controller"
	"github.com/streambus/streambus/broker/coordinator"
	"github.com/streambus/streambus/broker/fetch"
	"github.com/streambus/streambus/broker/group"
	"github.com/streambus/streambus/broker/handler"
	"github.com/streambus/streambus/broker/history"
	"github.com/streambus/streambus/broker/peer"
	"github.com/streambus/streambus/broker/replica"
	"github.com/streambus/streambus/broker/server"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/follow"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/wal"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/vfs"
)

const (
	drainTime        = 10 * time.Second // what a clean stop waits for answers
	registerTime     = time.Minute      // what a start waits for the controller
	progressInterval = 2 * time.Second  // how often a long start tells how far it is
	producerIDBlock  = 1000             // as in Apache Kafka
	requestMemory    = 256 << 20
	historyDir       = "raftmeta/history"
	maxPipelined     = 512
	maxPipelinedHeld = 16 << 20
)

// Disk is where a broker keeps things: files through a file system, and the
// raft log, which maps its own file and so cannot go through one.
type Disk struct {
	FS      vfs.FS
	RaftLog func(dir string) (wal.Log, error)
}

// OpenRaftLog opens the raft log on the machine's disk.
func OpenRaftLog(dir string) (wal.Log, error) { return wal.Open(dir) }

// Broker is one node: a broker, a controller, or both in one process.
type Broker struct {
	cfg         *config.Config
	fs          vfs.FS
	log         *slog.Logger
	identity    storage.Identity
	incarnation image.UUID
	endpoints   []image.Endpoint // for clients

	dir      *storage.Dir
	history  *history.Log
	view     *raftmeta.View
	replicas *replica.Manager
	groups   *coordinator.Manager
	fetcher  *fetch.Fetcher
	server   *server.Server
	session  *session // nil before the broker registers
	metrics  *prometheus.Registry

	quorum      *quorumNode       // nil without the controller role
	checkpoint  *checkpoint       // nil with it
	controllers *peer.Controllers // nil before the node belongs to a cluster

	listeners []net.Listener // by the order of listenAddrs
	names     []string       // their names
	admin     net.Listener
	begun     time.Time
	closed    bool          // the data directory
	acting    bool          // the metadata knows this incarnation; of the goroutine that follows it
	ready     chan struct{} // closed when clients can be served
}

// New opens the data directory and binds the listeners. Nothing is served yet.
// Close must be called if Run is not.
func New(cfg *config.Config, disk Disk, log *slog.Logger) (_ *Broker, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	b := &Broker{
		cfg: cfg, fs: disk.FS, log: log, incarnation: newUUID(), metrics: prometheus.NewRegistry(), view: raftmeta.NewView(),
		begun: time.Now(), ready: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	b.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if b.dir, err = storage.OpenDir(disk.FS, cfg.DataDir()); err != nil {
		return nil, err
	}
	limit, err := openFileLimit()
	if err != nil {
		return nil, fmt.Errorf("the limit of open files: %w", err)
	}
	budget := limitFiles(cfg.Number("max.connections"), limit, log)
	b.dir.LimitOpenFiles(budget.logs)
	if b.identity, err = identify(b.dir, cfg.NodeID()); err != nil {
		return nil, fmt.Errorf("data directory %s: %w", cfg.DataDir(), err)
	}
	if b.history, err = history.Open(disk.FS, filepath.Join(cfg.DataDir(), historyDir), cfg.Millis("streambus.history.retention.ms")); err != nil {
		return nil, err
	}
	if err = b.listen(); err != nil {
		return nil, err
	}
	serverMetrics := server.NewMetrics(b.metrics)
	b.replicas = replica.New(replica.Config{
		NodeID:             cfg.NodeID(),
		ProducerExpiration: cfg.Millis("producer.id.expiration.ms"),
		RetentionInterval:  cfg.Millis("log.retention.check.interval.ms"),
		MinFree:            cfg.Number("streambus.disk.min.free.bytes"),
		ScrubRate:          cfg.Number("streambus.scrub.bytes.per.second"),
		RecoveryThreads:    int(cfg.Number("num.recovery.threads.per.data.dir")),
		MaxLag:             cfg.Millis("replica.lag.time.max.ms"),
		Compacts:           cfg.Bool("log.cleaner.enable"),

		FetchMinBytes:       int32(cfg.Number("replica.fetch.min.bytes")),
		FetchMaxBytes:       int32(cfg.Number("replica.fetch.response.max.bytes")),
		FetchPartitionBytes: int32(cfg.Number("replica.fetch.max.bytes")),
		FetchWait:           cfg.Millis("replica.fetch.wait.max.ms"),
		FetchBackoff:        cfg.Millis("replica.fetch.backoff.ms"),

		Dial:     b.dialBroker,
		AlterISR: b.alterISR,
	}, b.dir, log, b.metrics)
	b.groups = coordinator.New(coordinator.Config{
		Group: group.Config{
			InitialRebalanceDelay: cfg.Millis("group.initial.rebalance.delay.ms"),
			MinSession:            cfg.Millis("group.min.session.timeout.ms"),
			MaxSession:            cfg.Millis("group.max.session.timeout.ms"),
			MaxSize:               int(cfg.Number("group.max.size")),
			ConsumerSession:       cfg.Millis("group.consumer.session.timeout.ms"),
			ConsumerMaxSize:       int(cfg.Number("group.consumer.max.size")),
			Assignors:             image.Items(cfg.Get("group.consumer.assignors")),
			Upgrades:              slices.Contains([]string{"upgrade", "bidirectional"}, cfg.Get("group.consumer.migration.policy")),
			Downgrades:            slices.Contains([]string{"downgrade", "bidirectional"}, cfg.Get("group.consumer.migration.policy")),
			MaxMetadata:           int(cfg.Number("offset.metadata.max.bytes")),
			Retention:             time.Duration(cfg.Number("offsets.retention.minutes")) * time.Minute,
			RetentionCheck:        cfg.Millis("offsets.retention.check.interval.ms"),
		},
		CommitTimeout: cfg.Millis("offsets.commit.timeout.ms"),
	}, b.replicas, log, b.metrics)
	b.fetcher = fetch.New(int32(cfg.Number("fetch.max.bytes")), int(cfg.Number("max.incremental.fetch.session.cache.slots")), b.rackAware())
	h := b.handlers()
	if cfg.IsController() {
		if b.quorum, err = newQuorumNode(b, disk, b.routes(h.ControllerHandlers()), serverMetrics); err != nil {
			return nil, err
		}
	} else {
		b.checkpoint = newCheckpoint(disk.FS, cfg.DataDir(), log)
	}
	routes := b.routes(h.Handlers())
	routes[protocol.KeyHello] = func(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
		controller.Reply(r, done, b.whoAmI(), nil)
	}
	b.server = server.New(server.Config{
		Side:              protocol.Clients,
		MaxRequestBytes:   int32(cfg.Number("socket.request.max.bytes")),
		MaxRequestSetting: "socket.request.max.bytes",
		RequestMemory:     max(requestMemory, cfg.Number("socket.request.max.bytes")),
		IdleTimeout:       cfg.Millis("connections.max.idle.ms"),
		MaxPipelined:      maxPipelined,
		MaxPipelinedBytes: maxPipelinedHeld,

		MaxConnections:      budget.connections,
		MaxConnectionsPerIP: int(cfg.Number("max.connections.per.ip")),
		PerIPOverrides:      cfg.PerIPOverrides(),
		Admin:               b.adminURL() + "/metrics",
	}, routes, log, serverMetrics)
	b.metrics.MustRegister(newState(b, budget.connections))
	return b, nil
}

// newUUID draws a random UUID (version 4). Like Apache Kafka it avoids those
// whose text begins with a dash, which command lines take for a flag.
func newUUID() image.UUID {
	for {
		var u image.UUID
		rand.Read(u[:])
		u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
		if u.String()[0] != '-' {
			return u
		}
	}
}

// listen binds every listener, so that what is advertised is known before the
// broker registers.
func (b *Broker) listen() error {
	wanted, err := b.cfg.Listeners()
	if err != nil {
		return err
	}
	var bound []config.Listener
	for _, l := range wanted {
		ln, err := net.Listen("tcp", l.Addr())
		if err != nil {
			return bindError("listener "+l.String(), "listeners", err)
		}
		b.listeners, b.names = append(b.listeners, ln), append(b.names, l.Name)
		if l.Port == "0" {
			_, l.Port, _ = net.SplitHostPort(ln.Addr().String())
		}
		bound = append(bound, l)
	}
	if b.endpoints, err = b.cfg.Endpoints(bound); err != nil {
		return err
	}
	admin := b.cfg.Get("streambus.admin.listen")
	if b.admin, err = net.Listen("tcp", admin); err != nil {
		return bindError("admin listener "+admin, "streambus.admin.listen", err)
	}
	return nil
}

func (b *Broker) adminURL() string { return "http://" + b.admin.Addr().String() }

// bindError says which setting asks for an address that cannot be had, and what
// to do about it.
func bindError(what, key string, err error) error {
	remedy := "set " + key + " to an address of this host"
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		remedy = "another process listens there, maybe another broker: stop it, or set " + key + " to a free port"
	case errors.Is(err, syscall.EACCES):
		remedy = "this user may not listen there: set " + key + " to a port from 1024 on"
	}
	return fmt.Errorf("%s: %w: %s", what, err, remedy)
}

// handlers puts the handlers together with what they need.
func (b *Broker) handlers() *handler.Broker {
	ids := &producerIDs{allocate: b.allocateProducerIDs}
	return &handler.Broker{
		NodeID:     b.cfg.NodeID(),
		Config:     b.cfg,
		Image:      b.view.Image,
		Current:    func(ctx context.Context) *image.Image { return b.session.current(ctx) },
		Replicas:   b.replicas,
		Groups:     b.groups,
		Fetcher:    b.fetcher,
		RackAware:  b.rackAware(),
		Now:        time.Now,
		Log:        b.log,
		CountError: newErrorCounts(b.metrics).count,
		Unpacking:  make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1)),
		Propose:    b.propose,
		Usage:      b.usage,
		Quorum:     func(ctx context.Context) (raftmeta.Info, error) { return b.controllers.Info(ctx) },

		ActiveController: b.activeControllerID,
		FindController:   b.findController,
		NewTopicID:       newUUID,
		ProducerIDs:      ids.take,
	}
}

func (b *Broker) rackAware() bool { return b.cfg.Get("replica.selector.class") == config.RackAware }

// routes has requests wait until clients can be served, but for those that find
// out who is there.
func (b *Broker) routes(handlers map[int16]handler.Func) map[int16]server.Handler {
	routes := map[int16]server.Handler{}
	for key, f := range handlers {
		routes[key] = b.onceReady(f)
	}
	routes[protocol.KeyApiVersions] = handlers[protocol.KeyApiVersions]
	return routes
}

func (b *Broker) onceReady(f server.Handler) server.Handler {
	return func(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
		select {
		case <-b.ready:
			f(ctx, r, done)
		case <-ctx.Done():
			done(&protocol.Response{Close: true})
		}
	}
}

// whoAmI is what this node says of itself.
func (b *Broker) whoAmI() peer.HelloAnswer {
	a := peer.HelloAnswer{NodeID: b.cfg.NodeID(), Incarnation: b.incarnation, DirectoryID: b.identity.DirectoryID}
	if b.quorum != nil {
		b.quorum.introduce(&a)
	}
	return a
}

// activeController tells whether this node is the active controller.
func (b *Broker) activeController() bool {
	return b.quorum != nil && b.quorum.formed.Load() && b.quorum.controller.Active()
}

// activeControllerID is the node that is the active controller, as far as this
// one knows.
func (b *Broker) activeControllerID() int32 {
	if b.quorum == nil || !b.quorum.formed.Load() {
		return -1
	}
	return b.quorum.controller.Leader()
}

// propose returns when what came of the commands is applied on this broker:
// what it answers after that, others can see.
func (b *Broker) propose(ctx context.Context, actor, cause string, cmds ...control.Command) []handler.Outcome {
	requests := make([]control.Request, len(cmds))
	for i, cmd := range cmds {
		requests[i] = control.Request{Actor: actor, Cause: cause, Awaited: true, Command: cmd}
	}
	outcomes := make([]handler.Outcome, len(cmds))
	for i, o := range b.controllers.Submit(ctx, requests) {
		outcomes[i] = handler.Outcome{Reply: o.Reply, Err: o.Err}
		if err := b.view.Wait(ctx, o.Index); o.Err == nil && err != nil {
			outcomes[i] = handler.Outcome{Err: err}
		}
	}
	return outcomes
}

func (b *Broker) usage() handler.Usage {
	u := handler.Usage{Dir: b.cfg.DataDir(), Total: -1, Free: -1, Err: b.dir.Failed()}
	if space, err := b.dir.Space(); err == nil {
		u.Total, u.Free = space.Total, space.Free
	}
	if abs, err := filepath.Abs(u.Dir); err == nil {
		u.Dir = abs
	}
	return u
}

func (b *Broker) allocateProducerIDs(ctx context.Context) (first, count int64, err error) {
	me, ok := b.view.Image().Broker(b.cfg.NodeID())
	if !ok {
		return 0, 0, errors.New("this broker is not registered")
	}
	o := b.controllers.Submit(ctx, []control.Request{{
		Actor: b.session.actor, Cause: "its producer ids are used up",
		Command: &control.AllocateProducerIDs{BrokerID: me.ID, BrokerEpoch: me.Epoch, Count: producerIDBlock},
	}})[0]
	if o.Err != nil {
		return 0, 0, o.Err
	}
	block := o.Reply.(*control.ProducerIDBlock)
	return block.First, int64(block.Count), nil
}

// Run serves until ctx ends, or until a part fails. The order of stopping is
// that of the comments: nobody is answered by something that is gone already.
func (b *Broker) Run(ctx context.Context) error {
	defer b.closeListeners()
	// Parts outlive ctx: they end when the last answer has left.
	parts, stopParts := context.WithCancel(context.WithoutCancel(ctx))
	defer stopParts()
	g, failed := errgroup.WithContext(parts)
	g.Go(func() error {
		return serveAdmin(failed, b.admin, adminHandler(b.metrics, b.isReady, b.diskServes, b.why, b.answerQuorum, b.answerPartition))
	})
	g.Go(func() error { b.tellProgress(failed); return nil })

	for _, w := range b.cfg.Warnings() {
		b.log.Warn(w)
	}
	b.log.Info("starting", "version", b.cfg.Version, "node", b.cfg.NodeID(), "data", b.cfg.DataDir(), "metrics", b.adminURL()+"/metrics")
	for i, ln := range b.listeners {
		g.Go(func() error { return b.server.Serve(parts, ln, b.names[i]) })
	}
	if b.quorum != nil {
		b.quorum.serve(g, parts)
	}
	starting, started := context.WithCancel(failed)
	stop := context.AfterFunc(ctx, started)
	if err := b.start(starting, g, failed); err == nil {
		close(b.ready)
		b.log.Info("started", "cluster", b.identity.ClusterID, "took", time.Since(b.begun))
	} else if ctx.Err() == nil {
		stopParts()
		b.closeListeners()
		return errors.Join(err, g.Wait(), b.Close())
	}
	stop()
	started()

	select {
	case <-ctx.Done():
		b.log.Info("stopping")
	case <-failed.Done():
	}
	drain, cancel := context.WithTimeout(failed, drainTime)
	if !isClosed(b.ready) { // nobody was served, so nobody waits for an answer
		cancel()
	}
	b.handOver(drain)  // 1. others lead what this node led
	b.closeListeners() // 2. no further connections
	b.fetcher.Close()  // 3. waiting fetches get what there is, members of groups look elsewhere
	b.groups.Close()
	b.server.Shutdown(drain) // 4. what was read is answered
	if b.quorum != nil {
		b.quorum.shutdown(drain)
	}
	cancel()
	stopParts() // 5. the flusher, then the controller's loop
	err := g.Wait()
	if b.controllers != nil {
		b.controllers.Close()
	}
	if err == nil && b.checkpoint != nil {
		b.checkpoint.write(b.view.Image()) // 6. where the next start goes on from
	}
	return errors.Join(err, b.Close()) // 7. the data directory, clean
}

// start returns when clients can be served: the node belongs to a cluster, and
// as a broker it is registered, has its logs open, and the controllers count on
// it. parts ends with the parts that are started in g.
func (b *Broker) start(ctx context.Context, g *errgroup.Group, parts context.Context) error {
	if err := b.enter(ctx); err != nil {
		return err
	}
	b.controllers = &peer.Controllers{
		Node: b.cfg.NodeID(), Incarnation: b.incarnation, ClusterID: b.identity.ClusterID,
		Addresses: b.reachable, Dial: b.peerConfig(),
	}
	if b.quorum != nil {
		if err := b.quorum.open(); err != nil {
			return err
		}
		b.controllers.Local = b.quorum.controller
		g.Go(func() error { return b.quorum.run(parts) })
		g.Go(func() error { return b.takePlace(parts) })
	}
	g.Go(func() error { return b.watchCluster(parts) })
	b.session = newSession(b.controllers, b.view, b.log, control.RegisterBroker{
		ID: b.cfg.NodeID(), Incarnation: b.incarnation, Listeners: b.endpoints, Rack: b.cfg.Get("broker.rack"),
		Dirs: []image.UUID{b.identity.DirectoryID}, Levels: image.OwnLevels, PreviousBrokerEpoch: b.dir.BrokerEpoch(),
	})
	b.metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "streambus_metadata_unconfirmed_answers_total",
		Help: "Answers about the metadata that were given without a lease while no controller could be reached: they may be old.",
	}, func() float64 { return float64(b.session.stale.Load()) }))
	g.Go(func() error { return b.replicas.Run(parts) })
	state, units := follow.New(b.identity.ClusterID), raftmeta.Source(b.controllers.Units)
	if b.checkpoint != nil {
		state, units = b.checkpoint.load(b.identity.ClusterID), b.checkpoint.counted(units, b.view.Image)
		g.Go(func() error { b.checkpoint.run(parts); return nil })
	}
	from := state.Index()
	g.Go(func() error { return b.view.Follow(parts, state, units, b.apply, b.shown) })
	if !b.cfg.IsBroker() {
		return nil
	}
	registering, cancel := context.WithTimeout(ctx, registerTime)
	defer cancel()
	if err := b.notAhead(registering, from); err != nil {
		return err
	}
	if err := b.session.register(registering); err != nil {
		return err
	}
	b.dir.SetBrokerEpoch(b.session.currentEpoch())
	if err := b.replicas.SetAsideStrays(b.view.Image()); err != nil {
		b.log.Error("directories of no partition could not be set aside; they are left alone", "error", err)
	}
	b.giveUpDamaged(ctx)
	for _, e := range b.endpoints {
		b.log.Info("listening", "listener", e.Name, "advertised", fmt.Sprintf("%s:%d", e.Host, e.Port))
	}
	g.Go(func() error { return b.session.run(parts) })
	g.Go(func() error { return b.giveUpWithDisk(parts) })
	g.Go(func() error { b.giveUpWhatIsFound(parts); return nil })
	b.session.setReady()
	select {
	case <-b.session.in:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// giveUpWithDisk ends a broker whose data directory has failed, if there are others
// to lead what it led. One that is alone stays, and says what happened.
func (b *Broker) giveUpWithDisk(ctx context.Context) error {
	select {
	case <-b.replicas.Failed():
	case <-ctx.Done():
		return nil
	}
	if !b.session.hasOthers() {
		return nil
	}
	return fmt.Errorf("this broker stops, so that others lead what it led: %w", b.dir.Failed())
}

// notAhead makes sure that the controllers have what this broker goes on from. It
// registers with nobody else: it would take what they decide now for what it knows.
func (b *Broker) notAhead(ctx context.Context, index uint64) error {
	if index == 0 {
		return nil
	}
	switch has, err := b.controllers.Current(ctx); {
	case err != nil:
		return fmt.Errorf("the broker could not ask the controllers how far the metadata is: %w", err)
	case has < index:
		return fmt.Errorf("this broker has the metadata up to index %d, the controllers up to %d: %w", index, has, raftmeta.ErrAhead)
	}
	return nil
}

// handOver gives what this node leads to others.
func (b *Broker) handOver(ctx context.Context) {
	if b.session != nil && b.cfg.IsBroker() && b.cfg.Bool("controlled.shutdown.enable") {
		b.session.leave(ctx)
	}
	if b.quorum != nil {
		b.quorum.resign(ctx)
	}
}

// why answers from the history of this node.
func (b *Broker) why(q history.Question, yield func(history.Entry) bool) error {
	return history.Read(b.fs, filepath.Join(b.cfg.DataDir(), historyDir), q, yield)
}

// apply follows the metadata. What it says of this node's former self, until it
// knows this one, is nothing to act on: the logs are opened once, and not taken
// from the one and given to the other before.
func (b *Broker) apply(c follow.Change) {
	img, d := c.Image, c.Delta
	now := time.Now()
	if err := b.history.Append(now, history.Explain(now, b.view.Image(), img, c.Records)); err != nil {
		b.log.Warn("a change of the metadata is missing in the history", "index", img.Index(), "error", err)
	}
	if d.Settings {
		b.replicas.SetDefaults(b.cfg.TopicDefaults(img))
		b.replicas.SetRates(now, b.cfg.Dynamic(img, "leader.replication.throttled.rate"), b.cfg.Dynamic(img, "follower.replication.throttled.rate"))
		b.replicas.SetCompaction(now, replica.Compaction{
			Memory:   b.cfg.Dynamic(img, "log.cleaner.dedupe.buffer.size"),
			Interval: image.Millis(b.cfg.Dynamic(img, "log.cleaner.backoff.ms")),
			Rate:     b.cfg.DynamicRate(img, "log.cleaner.io.max.bytes.per.second"),
		})
		d = d.WithAll(img)
	}
	if !b.acting {
		me, ok := img.Broker(b.cfg.NodeID())
		if b.acting = ok && me.Incarnation == b.incarnation; !b.acting {
			return
		}
		d = image.Everything(img)
	}
	b.replicas.Apply(img, d)
	b.groups.Apply(img, d)
}

// shown is told of every image that answers are given from.
func (b *Broker) shown(index uint64, awaited bool) {
	b.replicas.Shown(b.view.Image())
	b.session.shown(index, awaited)
}

// Ready is closed when clients can be served.
func (b *Broker) Ready() <-chan struct{} { return b.ready }

// isReady says why clients cannot be served, or should not come here: the node is
// starting, or the controllers do not count on it.
func (b *Broker) isReady() error {
	if !isClosed(b.ready) {
		done, total := b.replicas.Recovery()
		return fmt.Errorf("starting: %d of %d logs are open", done, total)
	}
	if !b.cfg.IsBroker() {
		return nil
	}
	return b.session.standing(b.view.Image(), time.Now(), b.cfg.Millis("broker.session.timeout.ms"))
}

// diskServes says what is wrong with the disk: that it has failed, or that nothing
// is kept for the metadata when it is full, since it was or has little room.
func (b *Broker) diskServes() error {
	if err := b.dir.Failed(); err != nil {
		return err
	}
	if b.quorum != nil && b.quorum.formed.Load() {
		return b.quorum.controller.NoReserve()
	}
	return nil
}

// tellProgress logs how far the start is, until clients can be served.
func (b *Broker) tellProgress(ctx context.Context) {
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			done, total := b.replicas.Recovery()
			b.log.Info("still starting", "logs_open", done, "of", total, "since", time.Since(b.begun).Round(time.Second))
		case <-b.ready:
			return
		case <-ctx.Done():
			return
		}
	}
}

// Endpoints is where clients connect, as advertised.
func (b *Broker) Endpoints() []image.Endpoint { return b.endpoints }

func (b *Broker) closeListeners() {
	for _, ln := range b.listeners {
		ln.Close()
	}
	if b.quorum != nil {
		b.quorum.closeListener()
	}
}

// Close gives back what New took: cleanly, if the directory has not failed.
func (b *Broker) Close() error {
	var errs []error
	b.closeListeners()
	if b.admin != nil {
		b.admin.Close()
	}
	if b.quorum != nil {
		errs = append(errs, b.quorum.close())
	}
	if b.history != nil {
		errs = append(errs, b.history.Close())
	}
	if b.dir != nil && !b.closed { // the admin server may still look at it
		errs = append(errs, b.dir.Close(time.Now()))
		b.closed = true
	}
	return errors.Join(errs...)
}
