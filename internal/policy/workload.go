package policy

// Workload is what a sidecar is told about itself.
type Workload struct {
	Service   string
	Namespace string
	Version   string
	Instance  string
}
