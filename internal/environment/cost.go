package environment

import (
	"fmt"
	"strconv"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// hoursOfMonth are those of a price by the month.
const hoursOfMonth = 730

// reckon brings the cost up to now where what it is reckoned by changes. Between that, it grows by the hour, and nothing is written.
func (d *decision) reckon() {
	prices := d.rules().prices()
	a := d.st.Admission
	if prices == nil || a == nil || a.Requests == nil {
		if d.st.Cost != nil && prices == nil { // what it has cost stays
			d.charge(d.st.Cost.Currency, money(0))
		}
		return
	}
	s := sizeOf(a.Requests)
	perHour := float64(s.storage) / (1 << 30) * number(prices.StorageGiBMonth) / hoursOfMonth
	if a.At != nil {
		perHour += float64(s.cpu)/1000*number(prices.CPUHour) + float64(s.memory)/(1<<30)*number(prices.MemoryGiBHour)
	} else if len(d.st.Inventory) == 0 {
		perHour = 0 // it waits, and there is nothing of it
	}
	d.charge(prices.Currency, money(perHour))
}

// charge writes down what it has cost until now, and what an hour costs from now on.
func (d *decision) charge(currency, perHour string) {
	c := d.st.Cost
	if c != nil && c.Currency == currency && c.PerHour == perHour {
		return
	}
	now, amount := metav1.NewTime(d.Now.Truncate(time.Second)), money(0)
	if c != nil && c.Currency == currency { // another currency counts from nothing: nobody said at what rate
		amount = CostAt(c, now.Time)
	}
	d.st.Cost = &v1alpha1.Cost{Currency: currency, Amount: amount, PerHour: perHour, At: now}
}

// CostAt is what an environment has cost until a time.
func CostAt(c *v1alpha1.Cost, at time.Time) string {
	return money(number(c.Amount) + number(c.PerHour)*max(at.Sub(c.At.Time), 0).Hours())
}

func money(f float64) string { return fmt.Sprintf("%.6f", f) }

func number[T ~string](s T) float64 {
	f, err := strconv.ParseFloat(string(s), 64)
	if err != nil {
		return 0
	}
	return f
}
