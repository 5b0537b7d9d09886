-- Puts hints straight into the list that workers fetch from, in apalis-redis' own layout, and wakes the workers.
-- apalis' own push goes through a set sorted by the pusher's clock, which the worker's clock opens: skewed clocks
-- would delay every hint, and 8,000 due ones would break its fetch script for ever.
-- KEYS: data, active, meta prefix. ARGV: wake channel, then id and traceparent of each hint.
-- Returns how many were new.
local pushed = 0
for i = 2, #ARGV, 2 do
  local id = ARGV[i]
  if redis.call('hsetnx', KEYS[1], id, 'null') == 1 then
    redis.call('hset', KEYS[3] .. ':' .. id, 'attempts', '0', 'max_attempts', '1', 'status', 'Pending',
      'traceparent', ARGV[i + 1])
    redis.call('rpush', KEYS[2], id)
    pushed = pushed + 1
  end
end
if pushed > 0 then
  redis.call('publish', ARGV[1], pushed)
end
return pushed
