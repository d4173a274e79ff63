package local

import (
	"strings"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// colType is the type of a column of its own.
type colType uint8

const (
	colString colType = iota // low cardinality: dictionary
	colText                  // high cardinality: plain
	colInt                   // nanoseconds and the like: delta
	colBool
	colCount // small integers that often repeat: plain, which zstd makes smaller than deltas
)

// column is a span attribute that has a typed column of its own in memory and on disk. A span whose attribute of that name has another type keeps it
// among the rest.
type column struct {
	attr string
	typ  colType
}

// columns is the only list of them: the fields of docs/format/record.md. Their name on disk is the attribute's with "_" for "." and "-".
// At most 64. New ones go to the end; blocks that were written without them have such attributes among the rest.
var columns = []column{
	{flow.AttrKind, colString},
	{flow.AttrPhase, colString},
	{flow.AttrSide, colString},
	{flow.AttrProtocol, colString},
	{flow.AttrReason, colString},
	{flow.AttrDelivered, colBool},
	{flow.AttrAnswered, colBool},
	{flow.AttrProbe, colBool},
	{flow.AttrTraceBegun, colBool},
	{flow.AttrAttempt, colCount},
	{flow.AttrAttempts, colCount},
	{flow.AttrRevision, colString},
	{flow.AttrOverride, colString},
	{flow.AttrRoute, colString},
	{flow.AttrEndpoint, colString},
	{flow.AttrRequestID, colText},
	{flow.AttrSourceService, colString},
	{flow.AttrSourceNamespace, colString},
	{flow.AttrSourceVersion, colString},
	{flow.AttrSourceInstance, colString},
	{flow.AttrSourceIdentity, colString},
	{flow.AttrSourceAddress, colText},
	{flow.AttrDestService, colString},
	{flow.AttrDestNamespace, colString},
	{flow.AttrDestVersion, colString},
	{flow.AttrDestInstance, colString},
	{flow.AttrDestIdentity, colString},
	{flow.AttrDestAddress, colString},
	{flow.AttrMethod, colString},
	{flow.AttrPath, colText},
	{flow.AttrAuthority, colString},
	{flow.AttrUserAgent, colString},
	{flow.AttrStatus, colCount},
	{flow.AttrBytesIn, colCount},
	{flow.AttrBytesOut, colCount},
	{flow.AttrDetail, colText},
	{flow.AttrLegHeadParsed, colCount},
	{flow.AttrLegQueued, colCount},
	{flow.AttrLegConnected, colCount},
	{flow.AttrLegSecured, colCount},
	{flow.AttrLegSent, colInt},
	{flow.AttrLegFirstByte, colInt},
	{flow.AttrLegLastByte, colInt},
	{flow.AttrFarHeadParsed, colCount},
	{flow.AttrFarQueued, colCount},
	{flow.AttrFarSent, colInt},
	{flow.AttrFarFirstByte, colInt},
	{flow.AttrRPCSystem, colString},
	{flow.AttrRPCMethod, colString},
	{flow.AttrGRPC, colString},
	{flow.AttrMessagesIn, colCount},
	{flow.AttrMessagesOut, colCount},
	{flow.AttrMirror, colBool},
	{flow.AttrFlags, colString},
	{flow.AttrEnded, colString},
}

// name is the column's name on disk.
func (c column) name() string { return strings.NewReplacer(".", "_", "-", "_").Replace(c.attr) }

var (
	columnByAttr = map[string]int{}
	// slot is the place of a column in liveSpan.str or liveSpan.num; booleans live in a mask.
	slot       [len64]int
	reasonCol  int
	stringCols int
	intCols    int
)

const len64 = 64

// The maps below are derived from the table once; package variables are initialised before any function runs.
var _ = func() bool {
	for i, c := range columns {
		columnByAttr[c.attr] = i
		switch c.typ {
		case colString, colText:
			slot[i] = stringCols
			stringCols++
		case colInt, colCount:
			slot[i] = intCols
			intCols++
		case colBool:
		}
		if c.attr == flow.AttrReason {
			reasonCol = i
		}
	}
	if len(columns) > len64 || stringCols > maxStr || intCols > maxNum {
		panic("local: the column table outgrew liveSpan; raise maxStr or maxNum") // a test opens a store, so this cannot ship
	}
	return true
}()

// maxStr and maxNum size liveSpan's arrays: the numbers of string and of integer columns in the table.
const (
	maxStr = 32
	maxNum = 18
)
