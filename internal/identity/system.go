package identity

// SystemNamespace holds Tulle's own identities.
const SystemNamespace = "tulle-system"

// Controller is the identity the controller proves to sidecars and to the observer.
func Controller(trustDomain string) (ID, error) {
	return Workload(trustDomain, SystemNamespace, "controller")
}

// Observer is the identity the observer proves; only it may feed the controller with evidence.
func Observer(trustDomain string) (ID, error) {
	return Workload(trustDomain, SystemNamespace, "observer")
}
