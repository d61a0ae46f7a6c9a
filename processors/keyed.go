package processors

// Keyed is implemented by processors that keep something for each key, so that
// people can see how many there are and how often one was refused because
// there was no room (D6).
type Keyed interface {
	// Keys returns the number of keys that are kept now, and how often a new one
	// was refused, over all the time that the state covers.
	Keys() (kept int, refused uint64)
}

// countKeys copies the numbers of a Keyed processor to the metrics.
func (r *run) countKeys() {
	if k, ok := r.Processor.(Keyed); ok {
		kept, refused := k.Keys()
		r.Metrics.Keys.Store(uint64(kept))
		r.Metrics.Refused.Store(refused)
	}
}
