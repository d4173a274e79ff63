//go:build linux

package main

func (j job) shake() result { return result{Err: "not yet"} }

type holder struct{}

func (h *holder) hold(job) result { return result{} }
func (h *holder) release() result { return result{} }
