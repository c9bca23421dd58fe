"""What the engine's tests share."""

from Testing.own_folders import folders_of_their_own as folders_of_their_own
from Testing.report_schema import reports_that_fit_the_schema as reports_that_fit_the_schema
