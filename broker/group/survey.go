package group

// Summary is a group in figures.
type Summary struct {
	ID      string
	Members int
	Offsets []Committed // by topic and partition
}

// Committed is an offset that a group has committed.
type Committed struct {
	Topic     string
	Partition int32
	Offset    int64
}

// Survey tells of the groups that take wants, which is asked in the order of their ids
// and told how many offsets each has. What is on its way to the other replicas is
// among them already.
func (s *Shard) Survey(take func(id string, offsets int) bool) (all []Summary) {
	for _, id := range s.ids() {
		g := s.groups[id]
		if !take(id, len(g.offsets)) {
			continue
		}
		x := Summary{ID: id, Members: g.size()}
		for _, p := range g.partitions() {
			x.Offsets = append(x.Offsets, Committed{p.topic, p.index, g.offsets[p].at})
		}
		all = append(all, x)
	}
	return all
}

// Completed is how many rebalances have ended with an assignment.
func (s *Shard) Completed() int64 { return s.completed }
