"""The figures of a report as Altair charts: functions from the results' tables to charts."""
