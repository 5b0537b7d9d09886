-- Adds hints that the queue does not hold, in their order, while there is capacity, and wakes the workers where the queue was
-- empty: a worker sleeps only after it has found it empty.
-- KEYS: waiting, fetched, traces, refill. ARGV: for how many ms a fetched hint is held, capacity, what is left when a relay is
-- to be woken for more (0 for never), wake channel, then id and traceparent of each hint.
-- Returns a letter for each hint, n for new and k for known, up to the first one that there was no capacity for.
local waiting, fetched, traces, refill = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Held no longer: its worker is dead, or this server's clock was set back.
redis.call('zremrangebyscore', fetched, '-inf', now - ARGV[1])
redis.call('zremrangebyscore', fetched, '(' .. now, '+inf')

local before = redis.call('zcard', waiting)
local outstanding = before + redis.call('zcard', fetched)
local last = redis.call('zrange', waiting, -1, -1, 'withscores')[2]
local place = last and tonumber(last) or 0
local answers = {}
for i = 5, #ARGV, 2 do
  local id, trace = ARGV[i], ARGV[i + 1]
  if redis.call('zscore', fetched, id) or redis.call('zscore', waiting, id) then
    table.insert(answers, 'k')
  elseif outstanding >= tonumber(ARGV[2]) then
    if ARGV[3] ~= '0' then
      redis.call('set', refill, ARGV[3])
    end
    break
  else
    place = place + 1
    outstanding = outstanding + 1
    redis.call('zadd', waiting, place, id)
    if trace ~= '' then
      redis.call('hset', traces, id, trace)
    end
    table.insert(answers, 'n')
  end
end
if before == 0 and place > 0 then
  redis.call('publish', ARGV[4], place)
end
return table.concat(answers)
