package brain

// Advisors in order of precedence.
var Advisors = []struct {
	Name string
	New  func() Advisor
}{
	{"outlier", func() Advisor { return NewOutlier(Settings{}) }},
}
