package sim

import "slices"

// disturb breaks something now and then, until everything is healed.
func (w *world) disturb() {
	if w.healed {
		return
	}
	w.after(200*ms+w.chance.Int64N(1500*ms), "fault", w.disturb)
	type fault struct {
		name string
		do   func()
	}
	var all []fault
	add := func(on bool, name string, do func()) {
		if on {
			all = append(all, fault{name, do})
		}
	}
	p := w.plan
	c := w.controllers[w.chance.IntN(len(w.controllers))]
	if w.chance.IntN(2) == 0 { // whoever is in office has most to lose
		for _, x := range w.controllers {
			if x.up && x.office.Held() {
				c = x
			}
		}
	}
	b := w.brokers[w.chance.IntN(len(w.brokers))]
	add(p.crash, "crashes of controllers", func() { w.crashController(c) })
	add(p.crash, "crashes while writing", func() { w.crashWhileWriting(c) })
	add(p.pause, "pauses of controllers", func() { w.pause(&c.process, 5*sec) })
	add(p.wipes && w.chance.IntN(3) == 0, "wipes", func() { w.wipe(c) })
	add(p.fullDisks, "full disks", func() { w.fill(c) })
	add(p.failedSyncs, "disks that fail a sync", func() { c.disk.Fail(errSync) })
	add(p.flips && w.chance.IntN(3) == 0, "bit flips", func() { w.damage(c) })
	add(p.jumps, "jumps of wall time", func() { w.jump(w.anyone()) })
	add(p.twins, "second processes", func() { w.double(b) })
	add(p.brokerFaults, "crashes of brokers", func() { w.crashBroker(b) })
	add(p.brokerFaults, "stops of brokers", func() {
		if b.up && b.epoch > 0 && !b.stopping {
			b.stopping = true
			b.w.tell("%s wants to stop", b.name)
		}
	})
	add(p.brokerFaults, "pauses of brokers", func() { w.pause(&b.process, 12*sec) })
	add(p.failedSyncs && b.holdsRecords(), "disks of records that fail a sync", func() { b.failing = true })
	add(p.partitions, "partitions", w.partition)
	add(p.partitions && p.elections, "leaders that do not hear of their successor", func() { w.deafen(c) })
	add(p.partitions && b.holdsRecords(), "brokers that hear of nothing", func() { // and lead and follow as before
		var links [][2]*process
		for _, x := range w.controllers {
			links = append(links, [2]*process{&x.process, &b.process})
		}
		w.net.separate(links, w.chance.Int64N(6*sec))
	})
	add(p.partitions, "one-way cuts", func() {
		a, b := w.anyone(), w.anyone()
		w.net.separate([][2]*process{{a, b}}, w.chance.Int64N(5*sec))
	})
	add(p.loss, "times of loss", func() {
		w.net.loss, w.net.twice = w.chance.IntN(300), w.chance.IntN(200)
		w.after(w.chance.Int64N(4*sec), "no loss", func() { w.net.loss, w.net.twice = 0, 0 })
	})
	add(p.slow, "slow links", func() {
		l := [2]*process{w.anyone(), w.anyone()}
		w.net.slow[l] = w.chance.Int64N(600 * ms)
		w.after(w.chance.Int64N(5*sec), "fast again", func() { delete(w.net.slow, l) })
	})
	add(p.elections, "forced elections", func() {
		if c.up {
			c.at(w.now, "campaign", func() {
				c.input(func() {
					if _, ok := c.core.Transfer(); !ok {
						_ = c.core.Campaign() // the others may refuse
					}
				})
			})
		}
	})
	if len(all) == 0 {
		return
	}
	f := all[w.chance.IntN(len(all))]
	w.stats[f.name]++
	w.stats["faults"]++
	w.tell("fault: %s", f.name)
	f.do()
}

func (w *world) anyone() *process {
	n := w.chance.IntN(len(w.controllers) + len(w.brokers))
	if n < len(w.controllers) {
		return &w.controllers[n].process
	}
	return &w.brokers[n-len(w.controllers)].process
}

func (w *world) pause(p *process, most int64) {
	d := 50*ms + w.chance.Int64N(most)
	w.tell("%s pauses for %.1f s", p.name, float64(d)/1e9)
	p.pause(d)
}

func (w *world) crashController(c *controller) {
	if !c.up {
		return
	}
	led := c.seen.State == "leader"
	c.crash()
	w.after(20*ms+w.chance.Int64N(4*sec), "start", func() {
		if !c.up {
			c.start()
		}
	})
	if led && w.plan.deathProofs {
		w.proveDeath(c)
	}
}

// crashWhileWriting waits until there is a write to be caught in.
func (w *world) crashWhileWriting(c *controller) {
	tries := 0
	var try func()
	try = func() {
		if tries++; c.up && c.writing != nil {
			w.crashController(c)
		} else if tries < 200 && !w.healed {
			w.after(1+w.chance.Int64N(3*ms), "catch", try)
		}
	}
	try()
}

// proveDeath tells the others that a leader's process is gone, each for itself.
func (w *world) proveDeath(gone *controller) {
	for _, c := range w.controllers {
		if c == gone || !c.up {
			continue
		}
		c.at(w.now+w.wire.Int64N(20*ms), "leader gone", func() {
			c.input(func() {
				if gone.up {
					return
				}
				if err := c.core.ForgetLeader(gone.raftID); err != nil {
					w.broken("%s: %v", c, err)
				}
				c.at(w.now+w.wire.Int64N(50*ms), "stand", func() {
					c.input(func() {
						if c.core.Status().Leader == 0 {
							_ = c.core.Campaign() // who cannot, waits
						}
					})
				})
			})
		})
	}
}

func (w *world) crashBroker(b *broker) {
	if !b.up {
		return
	}
	node, incarnation := b.node, b.incarnation
	b.crash()
	w.after(w.chance.Int64N(3*sec), "start", b.again)
	for _, c := range w.controllers { // its connection closes
		if c.up && w.wire.IntN(3) > 0 {
			c.at(w.now+w.wire.Int64N(5*ms), "closed", func() {
				c.input(func() {
					c.office.Closed(node, incarnation)
				})
			})
		}
	}
}

// partition splits everybody in two.
func (w *world) partition() {
	var sides [2][]*process
	for _, c := range w.controllers {
		n := w.chance.IntN(2)
		sides[n] = append(sides[n], &c.process)
	}
	for _, b := range w.everyBroker() {
		n := w.chance.IntN(2)
		sides[n] = append(sides[n], &b.process)
	}
	var links [][2]*process
	for _, a := range sides[0] {
		for _, b := range sides[1] {
			links = append(links, [2]*process{a, b}, [2]*process{b, a})
		}
	}
	w.net.separate(links, 200*ms+w.chance.Int64N(6*sec))
}

// deafen has a leader hand over, and hear nothing from the other controllers from
// then on: it takes itself for the leader for another second or two, and the brokers
// can ask it.
func (w *world) deafen(c *controller) {
	var links [][2]*process
	for _, x := range w.controllers {
		if x != c {
			links = append(links, [2]*process{&x.process, &c.process})
		}
	}
	if !c.up {
		return
	}
	c.at(w.now, "hand over", func() {
		c.input(func() {
			if _, ok := c.core.Transfer(); ok && !w.healed {
				w.net.separate(links, sec+w.chance.Int64N(3*sec))
			}
		})
	})
}

// heal ends every fault.
func (w *world) heal() {
	w.healed = true
	w.tell("everything is healed")
	w.net.heal()
	for len(w.twins) > 0 {
		w.endTwin(w.twins[0])
	}
	for _, c := range w.controllers {
		c.room()
		c.skew = 0
		c.pausedUntil = 0
		c.resume()
		if !c.up {
			c.start()
		}
	}
	for _, b := range w.brokers {
		b.skew = 0
		b.failing = false
		b.pausedUntil = 0
		b.resume()
		if !b.up {
			b.start()
		}
	}
	for _, g := range w.groups {
		if !slices.ContainsFunc(w.consumers, func(c *consumer) bool { return c.group == g }) {
			w.join(g)
		}
	}
}
