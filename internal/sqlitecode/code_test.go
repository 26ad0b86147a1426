package sqlitecode

import (
	"errors"
	"fmt"
	"testing"

	mattn "github.com/surepost/surepost/internal/sqlitecode/testdata/mattn"
	modernc "github.com/surepost/surepost/internal/sqlitecode/testdata/modernc"
	ncruces "github.com/surepost/surepost/internal/sqlitecode/testdata/ncruces"
)

// otherCode has modernc's method, and is something else.
type otherCode struct{}

func (otherCode) Error() string { return "other" }
func (otherCode) Code() int     { return Busy }

func TestEveryDriversCodeIsRead(t *testing.T) {
	for _, test := range []struct {
		err  error
		want int
	}{
		{&modernc.Error{N: BusySnapshot}, BusySnapshot},
		{mattn.Error{Code: 5, ExtendedCode: BusySnapshot}, BusySnapshot},
		{mattn.Error{Code: Full}, Full},
		{mattn.ErrNo(Busy), Busy},
		{&ncruces.Error{N: LockedSharedCache}, LockedSharedCache},
		{ncruces.ExtendedErrorCode(BusySnapshot), BusySnapshot},
		{otherCode{}, 0},
		{errors.New("no"), 0},
		{fmt.Errorf("wrapped: %w", &modernc.Error{N: Busy}), 0},
		{nil, 0},
	} {
		if got := Of(test.err); got != test.want {
			t.Errorf("%T %v: %d, want %d", test.err, test.err, got, test.want)
		}
	}
}
