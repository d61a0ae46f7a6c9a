package table

// lane is a heap of four branches. It holds the times themselves, so that
// finding a place seldom has to look at slots.
type lane []node

type node struct {
	due  int64
	slot uint32
}

const branches = 4

// before is a total order: by time, then by key.
func (t *Table[V]) before(a, b node) bool {
	if a.due != b.due {
		return a.due < b.due
	}
	return t.at(a.slot).key < t.at(b.slot).key
}

// join adds a node to a lane.
func (t *Table[V]) join(lane int, n node) {
	t.lanes[lane] = append(t.lanes[lane], n)
	t.place(lane, uint32(len(t.lanes[lane])-1), n)
	t.settle(lane, uint32(len(t.lanes[lane])-1))
}

// leave removes the node at a position.
func (t *Table[V]) leave(lane int, pos uint32) {
	l := t.lanes[lane]
	end := uint32(len(l) - 1)
	last := l[end]
	t.lanes[lane] = l[:end]
	if pos != end {
		t.place(lane, pos, last)
		t.settle(lane, pos)
	}
}

// place puts a node at a position.
func (t *Table[V]) place(lane int, pos uint32, n node) {
	t.lanes[lane][pos] = n
	t.at(n.slot).pos = pos
}

// settle moves the node at a position to where it belongs.
func (t *Table[V]) settle(lane int, pos uint32) {
	l := t.lanes[lane]
	n := l[pos]
	for pos > 0 {
		parent := (pos - 1) / branches
		if !t.before(n, l[parent]) {
			break
		}
		t.place(lane, pos, l[parent])
		pos = parent
	}
	for {
		first := pos*branches + 1
		if int(first) >= len(l) {
			break
		}
		least := first
		for child := first + 1; child < first+branches && int(child) < len(l); child++ {
			if t.before(l[child], l[least]) {
				least = child
			}
		}
		if !t.before(l[least], n) {
			break
		}
		t.place(lane, pos, l[least])
		pos = least
	}
	t.place(lane, pos, n)
}
