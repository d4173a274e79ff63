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
	colInt
	colBool
)

// packing is how a block holds a column where its type does not say so.
type packing uint8

const (
	asTyped packing = iota // integers, which are nanoseconds and the like: delta
	often                  // small integers that often repeat: plain, which zstd makes smaller than deltas
	few                    // integers of few values, such as microseconds given in nanoseconds: dictionary
	alike                  // texts each of which is like others: compressed better
)

// column is a span attribute that has a typed column of its own in memory and on disk. A span whose attribute of that name has another type keeps it
// among the rest.
type column struct {
	attr    string
	typ     colType
	packing packing
}

// columns is the only list of them: the fields of docs/format/record.md. Their name on disk is the attribute's with "_" for "." and "-".
// At most 64. New ones go to the end; blocks that were written without them have such attributes among the rest.
var columns = []column{
	{flow.AttrKind, colString, asTyped},
	{flow.AttrPhase, colString, asTyped},
	{flow.AttrSide, colString, asTyped},
	{flow.AttrProtocol, colString, asTyped},
	{flow.AttrReason, colString, asTyped},
	{flow.AttrDelivered, colBool, asTyped},
	{flow.AttrAnswered, colBool, asTyped},
	{flow.AttrProbe, colBool, asTyped},
	{flow.AttrTraceBegun, colBool, asTyped},
	{flow.AttrAttempt, colInt, often},
	{flow.AttrAttempts, colInt, often},
	{flow.AttrRevision, colString, asTyped},
	{flow.AttrOverride, colString, asTyped},
	{flow.AttrRoute, colString, asTyped},
	{flow.AttrEndpoint, colString, asTyped},
	{flow.AttrRequestID, colText, asTyped},
	{flow.AttrSourceService, colString, asTyped},
	{flow.AttrSourceNamespace, colString, asTyped},
	{flow.AttrSourceVersion, colString, asTyped},
	{flow.AttrSourceInstance, colString, asTyped},
	{flow.AttrSourceIdentity, colString, asTyped},
	{flow.AttrSourceAddress, colText, alike},
	{flow.AttrDestService, colString, asTyped},
	{flow.AttrDestNamespace, colString, asTyped},
	{flow.AttrDestVersion, colString, asTyped},
	{flow.AttrDestInstance, colString, asTyped},
	{flow.AttrDestIdentity, colString, asTyped},
	{flow.AttrDestAddress, colString, asTyped},
	{flow.AttrMethod, colString, asTyped},
	{flow.AttrPath, colText, alike},
	{flow.AttrAuthority, colString, asTyped},
	{flow.AttrUserAgent, colString, asTyped},
	{flow.AttrStatus, colInt, often},
	{flow.AttrBytesIn, colInt, often},
	{flow.AttrBytesOut, colInt, often},
	{flow.AttrDetail, colText, asTyped},
	{flow.AttrLegHeadParsed, colInt, often},
	{flow.AttrLegQueued, colInt, often},
	{flow.AttrLegConnected, colInt, often},
	{flow.AttrLegSecured, colInt, often},
	{flow.AttrLegSent, colInt, asTyped},
	{flow.AttrLegFirstByte, colInt, asTyped},
	{flow.AttrLegLastByte, colInt, asTyped},
	{flow.AttrFarHeadParsed, colInt, few},
	{flow.AttrFarQueued, colInt, few},
	{flow.AttrFarSent, colInt, few},
	{flow.AttrFarFirstByte, colInt, asTyped},
	{flow.AttrRPCSystem, colString, asTyped},
	{flow.AttrRPCMethod, colString, asTyped},
	{flow.AttrGRPC, colString, asTyped},
	{flow.AttrMessagesIn, colInt, often},
	{flow.AttrMessagesOut, colInt, often},
	{flow.AttrMirror, colBool, asTyped},
	{flow.AttrFlags, colString, asTyped},
	{flow.AttrEnded, colString, asTyped},
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
		case colInt:
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
