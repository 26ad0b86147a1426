package relay

import "fmt"

func (l Lane) String() string {
	return fmt.Sprintf("%s %d/%d", l.Destination, l.Index, l.Of)
}
