package sim

// network carries messages between processes. It delays, and when the plan says
// so it loses and cuts, and repeats what nodes may send twice. Requests are not
// repeated: one that is asked again has its own answer, and what arrives over a
// connection that its sender has given up is not read.
type network struct {
	world *world
	cut   map[[2]*process]int // directed; how many faults cut it
	slow  map[[2]*process]int64
	loss  int // in 1000
	twice int // in 1000
}

// send lets arrive happen at another process, once, twice or never; lost, if it
// is not nil, happens where the sender would notice that.
func (n *network) send(from, to *process, what string, arrive, lost func()) {
	w := n.world
	link := [2]*process{from, to}
	drop := func(why string) {
		w.stats[why]++
		if lost != nil {
			w.after(w.wire.Int64N(20*ms), "loss", lost)
		}
	}
	if n.cut[link] > 0 {
		drop("messages cut off")
		return
	}
	if w.wire.IntN(1000) < n.loss {
		drop("messages lost")
		return
	}
	copies := 1
	if repeatable := what == "raft" || what == "heartbeat"; repeatable && w.wire.IntN(1000) < n.twice {
		copies = 2
		w.stats["messages twice"]++
	}
	for range copies {
		delay := 50_000 + w.wire.Int64N(2*ms)
		if w.wire.IntN(50) == 0 && !w.healed {
			delay += w.wire.Int64N(100 * ms)
		}
		if s := n.slow[link]; s > 0 {
			delay += w.wire.Int64N(s)
		}
		w.after(delay, what, func() {
			if n.cut[link] > 0 || !to.up {
				drop("messages cut off")
				return
			}
			to.at(w.now, what, arrive)
		})
	}
}

// separate cuts links for a while.
func (n *network) separate(links [][2]*process, d int64) {
	for _, l := range links {
		n.cut[l]++
	}
	n.world.after(d, "heal", func() {
		if n.world.healed {
			return
		}
		for _, l := range links {
			n.cut[l]--
		}
	})
}

func (n *network) heal() {
	clear(n.cut)
	clear(n.slow)
	n.loss, n.twice = 0, 0
}
