package environment

import (
	"slices"
	"time"
	_ "time/tzdata" // the image holds no time zones

	"dayfly.dev/dayfly/api/v1alpha1"
)

// window is the sleep window of a schedule that it is now, by its beginning, which is zero if there is none; and when the next one
// begins.
func window(s *v1alpha1.SleepSchedule, now time.Time) (began, next time.Time) {
	zone, err := time.LoadLocation(s.TimeZone)
	if err != nil { // one that the API server knew, and this binary does not: nothing sleeps
		return began, next
	}
	now = now.In(zone)
	for days := -1; days <= 7; days++ {
		day := now.AddDate(0, 0, days)
		for _, w := range s.Windows {
			if len(w.Days) > 0 && !slices.Contains(w.Days, v1alpha1.Weekday(day.Weekday().String()[:3])) {
				continue
			}
			from, to := at(day, w.From), at(day, w.To)
			if !to.After(from) {
				to = at(day.AddDate(0, 0, 1), w.To)
			}
			switch {
			case from.After(now) && (next.IsZero() || from.Before(next)):
				next = from
			case !from.After(now) && now.Before(to) && from.After(began):
				began = from
			}
		}
	}
	return began, next
}

// at is a time of a day, such as 20:00.
func at(day time.Time, clock string) time.Time {
	t, err := time.Parse("15:04", clock)
	if err != nil {
		return day
	}
	return time.Date(day.Year(), day.Month(), day.Day(), t.Hour(), t.Minute(), 0, 0, day.Location())
}
