//go:build !linux

package main

import "syscall"

func applicationAttributes() *syscall.SysProcAttr { return nil }

func foreground() bool { return false }

func children() []int { return nil }
