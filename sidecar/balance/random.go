package balance

// random draws by weight and looks at nothing else: the yardstick for the others.
func random(t *tier, q query) int32 { return t.ready[t.draw(q)] }
