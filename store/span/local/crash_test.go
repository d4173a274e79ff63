package local

const childDir = "TULLE_TEST_SPANS_CHILD"

func child() {}
